import { watch } from 'node:fs';
import { existsSync } from 'node:fs';
import { join, relative, resolve, sep } from 'node:path';
import { findSite, readSite, siteFolderName } from '../../controller/stores/site.ts';
import { explain } from '../advice.ts';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import type { Gateway } from '../gateway.ts';
import { readManifests } from '../manifests.ts';
import { note, paint, print, shortDigest } from '../output.ts';
import { withProgress } from '../progress.ts';
import { onStop } from '../signals.ts';
import { openRunningSite, type Site } from '../site.ts';
import { defaultPort, startSite, type RunningSite } from '../start-site.ts';
import { deploy } from './deploy.ts';
import { readable } from './logs.ts';
import { terminalLog } from './up.ts';

/** An editor saves in several steps, and a branch switch touches many files. */
const settleMs = 80;
const retryLogsMs = 500;
const timeoutMs = 60_000;
const maxTimeoutSeconds = 900;
const defaultInspectPort = 9229;
/** Their changes are not the developer's. */
const ignored = new Set(['node_modules', siteFolderName, '.git', 'dist', 'vendor']);

export const command = defineCommand({
  positionals: {
    dir: { type: 'string', describe: 'The folder of the handler; else the current one', completes: 'file' },
  },
  options: {
    file: { type: 'string', alias: 'f', value: 'FILE', describe: 'The manifest; else function.yaml in DIR' },
    inspect: {
      type: 'number',
      value: 'PORT',
      describe: `Open the debugger in the handler process; 0 is ${defaultInspectPort}. Its timeout becomes 15 minutes`,
    },
    port: {
      type: 'number',
      value: 'N',
      default: defaultPort,
      describe: 'The port of a site that is started here',
    },
  },
  description:
    'Uses the site that runs, or the cluster of --context; if none does, one is started in DIR/.atoll and stopped at the end. Logs are printed as they come.',
  examples: [
    ['dev', 'The function of the current folder'],
    ['dev hello', 'That of the folder hello'],
    ['dev hello --inspect 9229', 'With the debugger on port 9229'],
    ['dev hello --context lab', 'In a cluster'],
  ],
  async run({ site: dir, context, namespace, dir: folder = '.', file, inspect, port }) {
    const source = resolve(folder);
    const manifestFile = file ?? join(source, 'function.yaml');
    if (!existsSync(manifestFile)) {
      throw new Failure(exitCodes.usage, `there is no ${manifestFile}`, { code: 'NoManifest' });
    }
    const manifests = await readManifests(manifestFile, namespace);
    if (manifests.length > 1)
      throw usageError(`${manifestFile} has ${manifests.length} Functions; dev runs one`);
    const key = { namespace: manifests[0]!.metadata.namespace, name: manifests[0]!.metadata.name };
    const stopping = new AbortController();
    let own: RunningSite | undefined = undefined;
    onStop((count) => {
      if (count === 1) return stopping.abort();
      void Promise.resolve(own?.hurry()).finally(() => process.exit(exitCodes.ok));
    });
    if (context === undefined && !process.env['FAAS_CONTEXT']) own = await siteFor(dir, source, port);
    try {
      const site = await openRunningSite(
        own === undefined ? { site: dir, context } : { site: own.paths.dir },
      );
      const { gateway } = site;
      print(`${key.name} on ${site.url ?? site.title}; deployed again at every save, Ctrl-C stops`);
      const changed = watchFolder(source, stopping.signal);
      void followLogs(gateway, key, stopping.signal);
      const prologue = inspect === undefined ? undefined : inspectorPrologue(inspect || defaultInspectPort);
      for (;;) {
        await deployOnce(site, manifestFile, source, namespace, prologue);
        if (!(await changed.next())) break;
      }
    } finally {
      stopping.abort();
      if (own !== undefined) {
        note('stopping');
        await own.stop();
      }
    }
  },
});

/** Undefined: one runs already. */
async function siteFor(
  dir: string | undefined,
  source: string,
  port: number,
): Promise<RunningSite | undefined> {
  const found = findSite(process.cwd(), process.env, dir);
  if (found !== undefined && (await readSite(found)) !== undefined) return undefined;
  return await withProgress('starting a site', (progress) =>
    startSite({
      dir: found ?? join(source, siteFolderName),
      host: '127.0.0.1',
      port,
      websocket: false,
      log: terminalLog(false),
      onStep: (text) => progress.update(text),
    }),
  );
}

/** What is wrong is said, and mended by the next save. */
async function deployOnce(
  site: Site,
  manifestFile: string,
  source: string,
  namespace: string,
  prologue: string | undefined,
): Promise<void> {
  const started = performance.now();
  try {
    const [written] = await readManifests(manifestFile, namespace);
    // A breakpoint must not run into the function's limit.
    const spec =
      prologue === undefined ? written!.spec : { ...written!.spec, timeoutSeconds: maxTimeoutSeconds };
    const manifest = { ...written!, spec };
    const result = await withProgress('deploying', (progress) =>
      deploy(site, manifest, source, {
        wait: true,
        dryRun: false,
        timeoutMs,
        progress,
        quiet: false,
        ...(prologue !== undefined && { prologue }),
      }),
    );
    const took = `${Math.round(performance.now() - started)} ms`;
    const what = result.changed ? `${shortDigest(result.sha256)} answers` : 'unchanged';
    note(`${paint('green', 'ready', process.stderr)}: ${what} (${took})`);
  } catch (error) {
    const { code, message, help } = explain(error);
    note(`${paint('red', 'error', process.stderr)}: ${code === undefined ? '' : `${code}: `}${message}`);
    if (help !== undefined) note(help);
  }
}

/** `next` resolves true when something changed since it was last asked, false at the end. */
function watchFolder(folder: string, signal: AbortSignal): { next(): Promise<boolean> } {
  let dirty = false;
  let wake: (() => void) | undefined;
  let timer: NodeJS.Timeout | undefined;
  const watcher = watch(folder, { recursive: true, signal }, (_event, name) => {
    if (
      name !== null &&
      relative('.', name)
        .split(sep)
        .some((part) => ignored.has(part))
    )
      return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      dirty = true;
      wake?.();
    }, settleMs);
  });
  watcher.on('error', () => undefined);
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    wake?.();
  });
  return {
    async next() {
      while (!dirty && !signal.aborted) await new Promise<void>((resolve) => (wake = resolve));
      dirty = false;
      return !signal.aborted;
    },
  };
}

async function followLogs(gateway: Gateway, key: { namespace: string; name: string }, signal: AbortSignal) {
  let since = Date.now();
  while (!signal.aborted) {
    try {
      for await (const record of gateway.logs(key, { follow: true, since }, signal)) {
        since = Math.max(since, Date.parse(record.time) + 1);
        print(readable(record));
      }
    } catch {
      // Not deployed yet, or the site is restarting.
    }
    if (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, retryLogsMs).unref());
  }
}

/**
 * Opens the debugger when the handler is imported. During a swap the old process still has the port: it is tried
 * again until that one has ended.
 */
function inspectorPrologue(port: number): string {
  return [
    `import * as __atollInspector from 'node:inspector';`,
    `const __atollInspect = () => { try { __atollInspector.open(${port}, '127.0.0.1'); } catch {}`,
    ` if (__atollInspector.url() === undefined) setTimeout(__atollInspect, 200).unref(); };`,
    ` __atollInspect();`,
  ].join('');
}
