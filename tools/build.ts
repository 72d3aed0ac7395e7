/**
 * Builds `dist/`: `dist/atoll/`, the package a handler's project depends on (types, what 'atoll' exports, fakes
 * for unit tests), and the sources as JavaScript, which is what runs once the package lies under node_modules,
 * where Node strips no types.
 */
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';

const root = dirname(import.meta.dirname);
const sourceFolders = ['crds', 'runtime', 'controller', 'gateway', 'cli', 'tools'];
/** What is copied as it is, not run from where it lies. */
const notBuilt = new Set([join('cli', 'templates')]);

export async function buildAll(out = join(root, 'dist')): Promise<void> {
  // Made beside it and moved: who runs from dist meanwhile sees the old or the new one, not half of it.
  const made = `${out}.${process.pid}`;
  try {
    await buildSources(made);
    await buildAtoll(join(made, 'atoll'));
    await rm(out, { recursive: true, force: true });
    await rename(made, out);
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}

/** The package 'atoll' as handlers see it: package.json, and index, calls, telemetry and testing, each as .js and .d.ts. */
export async function buildAtoll(out: string): Promise<void> {
  await mkdir(out, { recursive: true });
  const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as Record<string, unknown>;
  const { name, version, description, license } = manifest;
  const packed = {
    name,
    version,
    private: true,
    description,
    license,
    type: 'module',
    exports: {
      '.': { types: './index.d.ts', default: './index.js' },
      './telemetry': { types: './telemetry.d.ts', default: './telemetry.js' },
      './testing': { types: './testing.d.ts', default: './testing.js' },
    },
  };
  await writeFile(join(out, 'package.json'), `${JSON.stringify(packed, null, 2)}\n`);
  for (const [module, source] of [
    ['index', 'runtime/handler.ts'],
    ['calls', 'runtime/handler-calls.ts'],
    ['testing', 'cli/testing.ts'],
  ] as const) {
    // In the package they lie side by side.
    const text = (await readFile(join(root, source), 'utf8'))
      .replaceAll(/'(\.|\.\.\/runtime)\/handler\.ts'/g, "'./index.js'")
      .replaceAll(/'(\.|\.\.\/runtime)\/handler-calls\.ts'/g, "'./calls.js'");
    await writeFile(join(out, `${module}.js`), await toJavaScript(text));
    await writeFile(join(out, `${module}.d.ts`), await declarationsOf(text, source));
  }
  const telemetry = 'runtime/telemetry.ts';
  await writeFile(join(out, 'telemetry.js'), await withDependencies(telemetry));
  const text = await readFile(join(root, telemetry), 'utf8');
  await writeFile(join(out, 'telemetry.d.ts'), await declarationsOf(text, telemetry));
}

/** In one file, as the package is installed without a registry: it depends on nothing. */
async function withDependencies(source: string): Promise<string> {
  const { build } = await import('esbuild');
  const { outputFiles, metafile } = await build({
    absWorkingDir: root,
    entryPoints: [source],
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    target: 'node22',
    format: 'esm',
    legalComments: 'inline',
    logLevel: 'error',
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
  });
  const packages = new Set(
    Object.keys(metafile.inputs).flatMap(
      (path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? [],
    ),
  );
  const licences = await Promise.all([...packages].sort().map(licenceOf));
  return `${outputFiles[0]!.text}\n/*! What others wrote of it:\n\n${licences.join('\n\n').replaceAll('*/', '* /')}\n*/\n`;
}

async function licenceOf(name: string): Promise<string> {
  const folder = join(root, 'node_modules', name);
  const { version, license } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as {
    version: string;
    license: string;
  };
  const file = (await readdir(folder)).find((one) => /^licen[cs]e/i.test(one));
  const text = file === undefined ? '' : (await readFile(join(folder, file), 'utf8')).trim();
  return `${name} ${version} (${license})\n${text}`;
}

async function buildSources(out: string): Promise<void> {
  for (const folder of sourceFolders) {
    for (const file of await typeScriptFiles(join(root, folder))) {
      const path = join(out, relative(root, file).replace(/\.ts$/, '.js'));
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, await toJavaScript(await readFile(file, 'utf8')));
    }
  }
}

async function typeScriptFiles(folder: string): Promise<string[]> {
  if (notBuilt.has(relative(root, folder))) return [];
  const files: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) files.push(...(await typeScriptFiles(path)));
    else if (entry.name.endsWith('.ts')) files.push(path);
  }
  return files;
}

/** Module by module, so that files that name each other by path still find each other. */
export async function toJavaScript(text: string): Promise<string> {
  const { transform } = await import('esbuild');
  const { code } = await transform(text, { loader: 'ts', target: 'node22', format: 'esm' });
  return code.replaceAll(/((?:\bfrom|\bimport)\s*\(?\s*"\.{1,2}\/[^"\n]+)\.ts"/g, '$1.js"');
}

async function declarationsOf(text: string, fileName: string): Promise<string> {
  const { default: typescript } = await import('typescript');
  const { outputText, diagnostics = [] } = typescript.transpileDeclaration(text, {
    fileName,
    reportDiagnostics: true,
    compilerOptions: {
      target: typescript.ScriptTarget.ESNext,
      module: typescript.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      isolatedDeclarations: true,
      declaration: true,
    },
  });
  const [problem] = diagnostics;
  if (problem === undefined) return outputText;
  throw new Error(`${fileName}: ${typescript.flattenDiagnosticMessageText(problem.messageText, '\n')}`);
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    await buildAll();
  } catch (error) {
    // `npm ci --omit=dev` runs prepare as well: what is there already, or the sources, must do.
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    console.error(`dist/ was not built: ${(error as Error).message.split('\n')[0]}`);
  }
}
