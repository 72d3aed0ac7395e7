/** From `spec.handler` to the function it names: found, imported, checked. Errors as Lambda tells them apart. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Code, Fault } from '../errors.ts';
import type { Context } from '../handler.ts';
import { parseNodeOptions } from './node-options.ts';
import { isResponseStreaming, isStreaming } from './response-stream.ts';
import { thrownFault } from './thrown.ts';

export type UserFunction = (event: unknown, context: Context) => unknown;

const extensions = ['.mjs', '.js', '.cjs'];
/** Node's codes for a module, or something it imports, that is not there. */
const notFoundCodes = new Set([
  'MODULE_NOT_FOUND',
  'ERR_MODULE_NOT_FOUND',
  'ERR_PACKAGE_PATH_NOT_EXPORTED',
  'ERR_PACKAGE_IMPORT_NOT_DEFINED',
  'ERR_UNSUPPORTED_DIR_IMPORT',
  'ERR_UNKNOWN_FILE_EXTENSION',
]);

export class LoadError extends Error {
  readonly fault: Fault;

  constructor(code: Code, message: string, stack?: readonly string[]) {
    super(message);
    this.name = code;
    this.fault = stack ? { code, message, stack } : { code, message };
  }
}

/**
 * `handler` is `<file without extension>.<export>`, the file relative to `root`, the export possibly nested
 * (`src/index.api.get`). Throws LoadError, and nothing else.
 */
export async function loadUserFunction(
  root: string,
  handler: string,
  { callbacks }: { callbacks: boolean },
): Promise<UserFunction> {
  const { file, exportPath } = parseHandler(root, handler);
  let loaded: unknown;
  try {
    loaded = await load(file);
  } catch (error) {
    throw loadError(error, root, relative(root, file));
  }
  // A CommonJS module's exports are its default export; those that Node could not see statically only there.
  const found = exportOf(loaded, exportPath) ?? exportOf(loaded, ['default', ...exportPath]);
  const shown = `${relative(root, file)} ${found === undefined ? 'does not export' : 'exports no function named'}`;
  if (typeof found !== 'function') {
    throw new LoadError('Runtime.HandlerNotFound', `${shown} "${exportPath.join('.')}" (handler ${handler})`);
  }
  if (isStreaming(found)) {
    if (isResponseStreaming(found)) return found as UserFunction;
    throw new LoadError(
      'Runtime.MalformedStreamingHandler',
      `the handler ${handler} is marked for a kind of streaming that there is not: only "response", as awslambda.streamifyResponse sets it, is supported`,
    );
  }
  if (found.length >= 3 && !callbacks) {
    throw new LoadError(
      'Runtime.CallbackHandlerDeprecated',
      `the handler ${handler} takes ${found.length} parameters; callback handlers are not supported, as in Lambda since Node.js 24: make it async and return the result`,
    );
  }
  return found as UserFunction;
}

/**
 * What `--require` and `--import` of the function's NODE_OPTIONS name. Node would load them as it starts, before it
 * has the function's environment; Lambda's functions have it then. Throws LoadError, and nothing else.
 */
export async function preload(root: string, nodeOptions: string | undefined): Promise<void> {
  const require = createRequire(join(root, 'index.js'));
  for (const { kind, specifier } of parseNodeOptions(nodeOptions ?? '').preloads) {
    try {
      // From the package, where `import` would look from here; so both find what `require` finds.
      if (kind === 'require') require(specifier);
      else if (/^\w+:/.test(specifier)) await import(specifier);
      else await import(pathToFileURL(require.resolve(specifier)).href);
    } catch (error) {
      throw loadError(error, root, `${specifier} of NODE_OPTIONS`);
    }
  }
}

/** CommonJS is required, as in Lambda: what hooks `require`, as tracing does, sees the handler's module. */
async function load(file: string): Promise<unknown> {
  if (!file.endsWith('.mjs')) {
    try {
      return createRequire(file)(file) as unknown;
    } catch (error) {
      // An ES module that awaits at its top level.
      if ((error as { code?: unknown } | null | undefined)?.code !== 'ERR_REQUIRE_ASYNC_MODULE') throw error;
    }
  }
  return await import(pathToFileURL(file).href);
}

function parseHandler(root: string, handler: string): { file: string; exportPath: string[] } {
  const name = basename(handler);
  const dot = name.indexOf('.');
  const exportPath = name.slice(dot + 1).split('.');
  if (dot < 1 || exportPath.includes('')) {
    throw new LoadError(
      'Runtime.MalformedHandlerName',
      `"${handler}" is not <file without extension>.<export>, such as index.handler`,
    );
  }
  const base = resolve(root, dirname(handler), name.slice(0, dot));
  const inside = relative(root, base);
  if (handler.startsWith('/') || inside.startsWith('..') || handler.split('/').includes('..')) {
    throw new LoadError('Runtime.MalformedHandlerName', `"${handler}" leaves the package`);
  }
  for (const extension of extensions) {
    if (existsSync(base + extension)) return { file: base + extension, exportPath };
  }
  const tried = extensions.map((extension) => join('.', inside) + extension).join(', ');
  throw new LoadError(
    'Runtime.ImportModuleError',
    `the package has no file for handler ${handler}: tried ${tried}`,
  );
}

function exportOf(value: unknown, path: readonly string[]): unknown {
  let at = value;
  for (const name of path) {
    if ((typeof at !== 'object' && typeof at !== 'function') || at === null) return undefined;
    at = (at as Record<string, unknown>)[name];
  }
  return at;
}

function loadError(error: unknown, root: string, file: string): LoadError {
  const { code, message, stack } = thrownFault(error);
  const nodeCode = (error as { code?: unknown } | null | undefined)?.code;
  if (typeof nodeCode === 'string' && notFoundCodes.has(nodeCode)) {
    return new LoadError('Runtime.ImportModuleError', message, stack);
  }
  if (error instanceof SyntaxError) {
    return new LoadError('Runtime.UserCodeSyntaxError', `${file}: ${message}`, stack);
  }
  const place = placeOf(stack, root);
  const where = place === undefined ? '' : ` (${place})`;
  return new LoadError(
    'Runtime.InitError',
    `${file} threw while it was loaded: ${code}: ${message}${where}`,
    stack,
  );
}

/** `index.ts:3:7` of the topmost frame: nobody is called to whom the stack itself could be shown. */
function placeOf(stack: readonly string[] | undefined, root: string): string | undefined {
  const frame = stack?.find((line) => /^\s+at /.test(line));
  const place = /([^\s()]+:\d+:\d+)\)?$/.exec(frame ?? '')?.[1];
  return place?.replace(/^file:\/\//, '').replace(`${root}/`, '');
}
