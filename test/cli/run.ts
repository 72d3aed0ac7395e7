/** The real command line as a child process, and a real site behind it. */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import type { Closing } from '../support/closing.ts';
import type { Place } from '../support/place.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import type { SiteInfo } from '../../controller/stores/site.ts';

export const root = join(import.meta.dirname, '..', '..');
export const faasFile = join(root, 'cli', 'faas.js');

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Written to stdin through a pipe of the shell, as a user would; nothing: stdin is empty. */
  readonly stdin?: string;
  readonly node?: string;
  /** Where it runs; here by default. */
  readonly place?: Pick<Place, 'enter'> | undefined;
}

/** Runs `faas` to its end, whatever its exit code. */
export async function faas(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  const { cwd, stdin, node = process.execPath, place } = options;
  const env = { ...process.env, FAAS_SITE: undefined, NO_COLOR: '1', ...options.env };
  const launch =
    stdin === undefined
      ? { command: node, args: [faasFile, ...args] }
      : { command: 'sh', args: ['-c', 'printf %s "$0" | "$@"', stdin, node, faasFile, ...args] };
  const { command, args: all } = place?.enter(launch) ?? launch;
  const child = spawn(command, all, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  return await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
}

export interface TestSite {
  readonly dir: string;
  /** Of `faas up`, beside those that each test's has. */
  readonly args: string[];
  readonly info: SiteInfo;
  readonly process: RunningProcess;
  /** With `--site`, and where the site is. */
  faas(args: readonly string[], options?: RunOptions): Promise<Ended>;
  /** What it wrote to stdout; throws unless the exit code is 0. */
  ok(args: readonly string[], options?: RunOptions): Promise<string>;
}

/** `faas up` in a folder of its own, on free ports. */
export async function startSite(
  options: {
    args?: string[];
    dir?: string;
    env?: Record<string, string>;
    node?: string;
    /** Where it runs, and commands on it; here by default. */
    place?: Pick<Place, 'enter'>;
    closing?: Closing;
  } = {},
): Promise<TestSite> {
  const { closing } = options;
  const dir = options.dir ?? join(await temporaryFolder({ closing }), '.atoll');
  const launch = {
    command: options.node ?? process.execPath,
    args: [faasFile, 'up', '--dir', dir, '--port', '0', '-o', 'json', ...(options.args ?? [])],
  };
  const { command, args } = options.place?.enter(launch) ?? launch;
  const up = await startProcess(command, args, {
    name: 'faas up',
    env: { ...process.env, ...options.env },
    graceMs: 20_000,
    closing,
  });
  const info = JSON.parse(await up.line(/^\{"version"/)) as SiteInfo;
  const onSite: TestSite['faas'] = (args, more) =>
    faas(['--site', dir, ...args], { place: options.place, ...more });
  return {
    dir,
    args: options.args ?? [],
    info,
    process: up,
    faas: onSite,
    async ok(args, more) {
      const { code, stdout, stderr } = await onSite(args, more);
      if (code !== 0) throw new Error(`faas ${args.join(' ')} ended with exit code ${code}:\n${stderr}`);
      return stdout;
    },
  };
}

/** A folder with these files. */
export async function folderWith(
  files: Readonly<Record<string, string>>,
  closing?: Closing,
): Promise<string> {
  const folder = await temporaryFolder({ closing });
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), text);
  }
  return folder;
}

export const manifest = (name: string, spec = ''): string =>
  `apiVersion: atoll.dev/v1alpha1\nkind: Function\nmetadata: { name: ${name} }\nspec:\n  handler: index.handler\n${spec}`;

/** Answers whom it was called with, or fails as it was told. */
export const greeterSource = `
export const handler = async (event: { fail?: string; name?: string } | null, context: { awsRequestId: string }) => {
  console.log('called', { name: event?.name });
  if (event?.fail) {
    throw new RangeError(event.fail);
  }
  return { hello: event?.name ?? 'nobody', requestId: context.awsRequestId };
};
`;

/** A function's folder: function.yaml and index.ts. */
export const functionFolder = (name: string, spec = '', source = greeterSource): Promise<string> =>
  folderWith({ 'function.yaml': manifest(name, spec), 'index.ts': source });

/** A site with the function `greeter`, called by NATS too. */
export async function startGreeterSite(): Promise<TestSite> {
  const site = await startSite();
  const folder = await functionFolder('greeter', '  triggers: [{ name: in, nats: { subject: greeter } }]\n');
  await site.ok(['deploy', folder]);
  return site;
}

/** A Node in PATH that is not the pinned one, as a user's machine may have first. */
export const otherNode = findOtherNode();

function findOtherNode(): { path: string; major: number } | undefined {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(folder, 'node');
    if (folder.includes('node_modules') || !existsSync(path)) continue;
    try {
      const version = execFileSync(path, ['-p', 'process.versions.node'], { encoding: 'utf8' });
      const major = Number(version.split('.')[0]);
      if (major >= 18 && major < 24) return { path, major };
    } catch {
      // Not one that runs.
    }
  }
  return undefined;
}
