/** A handler and everything it imports as one file, its source map beside it, native add-ons copied. */
import { existsSync } from 'node:fs';
import { realpath } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import type { BuildFailure, BuildOptions, Message, Metafile } from 'esbuild';
import { parseHandler, type FunctionSpec } from '../../crds/function.ts';
import { AtollError } from '../../runtime/errors.ts';
import type { PackedFile } from '../../runtime/package/pack.ts';
import { exitCodes } from '../command.ts';
import { Failure } from '../failure.ts';
import { nativeAddons } from './native.ts';

export interface Bundle {
  readonly files: readonly PackedFile[];
  /** What esbuild warned of, as `file:line:column: text`. */
  readonly warnings: readonly string[];
}

export interface BundleOptions {
  /** Statements before all others, on one line; they may use `require`. */
  readonly prologue?: string;
}

type Handler = ReturnType<typeof parseHandler>;

const extensions = ['ts', 'mts', 'cts', 'tsx', 'js', 'mjs', 'cjs', 'jsx'];
const targets = { 'nodejs24.x': 'node24', 'nodejs22.x': 'node22' } as const satisfies Record<
  FunctionSpec['runtime'],
  string
>;

/**
 * The same sources give the same bytes, whatever the folder they lie in. Throws MalformedReturnType<typeof parseHandler>,
 * HandlerNotFound, or a Failure with `file:line:column` of every mistake.
 */
export async function bundle(
  folder: string,
  spec: Pick<FunctionSpec, 'handler' | 'runtime'>,
  { prologue = '' }: BundleOptions = {},
): Promise<Bundle> {
  const handler = handlerOf(spec.handler);
  // esbuild names modules by their real path: through a link they would seem to lie outside the folder.
  const root = await realpath(folder);
  const entry = entryFile(root, handler, spec.handler);
  const direct = await build(root, handler, spec, prologue, { entryPoints: [entry] });
  if (direct.metafile.inputs[entry]?.format !== 'cjs') {
    checkExport(direct.metafile, handler, entry);
    return direct.bundle;
  }
  // A CommonJS entry has no names that an ES module could export by themselves: the handler's is given to it.
  const name = handler.export.split('.')[0]!;
  const wrapped = await build(root, handler, spec, prologue, {
    stdin: {
      contents: `import entry from './${basename(entry)}';\nconst value = entry[${JSON.stringify(name)}];\nexport { value as ${JSON.stringify(name)} };\n`,
      resolveDir: join(root, dirname(entry)),
      sourcefile: `${handler.file}.handler.js`,
    },
  });
  return wrapped.bundle;
}

function handlerOf(text: string): Handler {
  let handler: Handler | undefined;
  try {
    handler = parseHandler(text);
  } catch {
    // Said below, with what is allowed.
  }
  if (handler === undefined || handler.file.split('/').some((part) => part === '' || part === '..')) {
    throw new AtollError(
      'Runtime.MalformedHandlerName',
      `spec.handler is "${text}", which is not <file without extension>.<export> inside the package`,
    );
  }
  return handler;
}

function entryFile(root: string, handler: Handler, text: string): string {
  const candidates = extensions.map((extension) => `${handler.file}.${extension}`);
  const found = candidates.find((candidate) => existsSync(join(root, candidate)));
  if (found !== undefined) return found;
  throw new Failure(
    exitCodes.functionFailed,
    `spec.handler is "${text}", but ${root} has no ${handler.file}.ts or .js (looked for ${extensions.map((extension) => `.${extension}`).join(' ')})`,
    { code: 'NoHandlerFile' },
  );
}

async function build(
  root: string,
  handler: Handler,
  spec: Pick<FunctionSpec, 'runtime'>,
  prologue: string,
  input: Pick<BuildOptions, 'entryPoints' | 'stdin'>,
): Promise<{ bundle: Bundle; metafile: Metafile }> {
  const esbuild = await import('esbuild');
  const natives = nativeAddons(dirname(handler.file));
  const outfile = join(root, `${handler.file}.mjs`);
  const settings = {
    ...input,
    absWorkingDir: root,
    outfile,
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    format: 'esm',
    target: targets[spec.runtime],
    // The handler process resolves it to the host's own copy.
    external: ['atoll'],
    sourcemap: 'linked',
    sourcesContent: true,
    charset: 'utf8',
    legalComments: 'none',
    // CommonJS dependencies expect these three, which an ES module does not have.
    banner: { js: commonJsNames + prologue },
    define: { __filename: '__atollFilename', __dirname: '__atollDirname' },
    plugins: [natives.plugin],
    logLevel: 'silent',
  } as const satisfies BuildOptions;
  try {
    const result = await esbuild.build(settings);
    const files = result.outputFiles.map(({ path, contents }) => ({
      path: relative(root, path),
      data: contents,
    }));
    return {
      bundle: { files: [...files, ...(await natives.files())], warnings: result.warnings.map(oneLine) },
      metafile: result.metafile,
    };
  } catch (error) {
    if (!isBuildFailure(error)) throw error;
    const messages = await esbuild.formatMessages(error.errors, {
      kind: 'error',
      color: process.stderr.isTTY === true && process.env['NO_COLOR'] === undefined,
    });
    const count = error.errors.length;
    throw new Failure(
      exitCodes.functionFailed,
      `${basename(root)} does not build (${count} ${count === 1 ? 'error' : 'errors'})\n${error.errors.map(oneLine).join('\n')}\n\n${messages.join('').trimEnd()}\n`,
      { code: 'BuildFailed', cause: error },
    );
  }
}

const commonJsNames = [
  "import { createRequire as __atollCreateRequire } from 'node:module';",
  'const require = __atollCreateRequire(import.meta.url);',
  'const __atollFilename = import.meta.filename, __atollDirname = import.meta.dirname;',
].join(' ');

/** An ES module says what it exports: a name it does not have need not travel to the site to be missed. */
function checkExport(metafile: Metafile, handler: Handler, entry: string): void {
  const output = Object.values(metafile.outputs).find(({ entryPoint }) => entryPoint === entry);
  const name = handler.export.split('.')[0]!;
  if (output === undefined || output.exports.includes(name)) return;
  // `export * from` a module that is not bundled: only running it shows the names.
  if (
    output.imports.some(({ kind, external }) => external === true && kind === 'import-statement') &&
    output.exports.length === 0
  )
    return;
  const exported =
    output.exports.length === 0 ? 'it exports nothing' : `it exports ${output.exports.join(', ')}`;
  throw new AtollError('Runtime.HandlerNotFound', `${entry} does not export "${name}": ${exported}`);
}

const isBuildFailure = (error: unknown): error is BuildFailure =>
  error instanceof Error && Array.isArray((error as Partial<BuildFailure>).errors);

const oneLine = ({ location, text }: Message): string =>
  location === null ? text : `${location.file}:${location.line}:${location.column + 1}: ${text}`;
