/** A site for the examples: the real `faas up` as a child process, and the connections a user would have. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connect, type NatsConnection } from '@nats-io/transport-node';

const faasPath = join(import.meta.dirname, '..', 'cli', 'faas.js');

/** How long one answer may take before the row counts as failed. */
const answerTimeoutMs = 20_000;
/** A first start may build nats-server. */
const startTimeoutMs = 15 * 60_000;

/** What an example needs of where it runs, be it one machine or a cluster. */
export interface Connections {
  readonly url: string;
  /** Go with every request to `url`: a key, where one is asked for. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly mqttUrl: string;
  readonly nats: NatsConnection;
  /** Runs the command; throws with its error output when it fails. */
  faas(...args: string[]): Promise<{ stdout: string; stderr: string }>;
}

export interface Site extends Connections {
  readonly dir: string;
  /** Resolves when `faas up` has ended by itself or after stop(). */
  readonly ended: Promise<number>;
  stop(): Promise<void>;
}

export interface Row {
  readonly trigger: string;
  readonly sent: string;
  readonly answer: unknown;
}
export type Attempt = (site: Connections) => Promise<Row>;

export async function startSite(
  dir: string,
  options: { show: boolean; args?: readonly string[] },
): Promise<Site> {
  const file = join(dir, 'site.json');
  // What an earlier site left behind when it was killed.
  const before = await read(file);
  const child = spawn(process.execPath, [faasPath, 'up', '--dir', dir, ...(options.args ?? [])], {
    stdio: ['ignore', options.show ? 'inherit' : 'pipe', options.show ? 'inherit' : 'pipe'],
  });
  let output = '';
  const keep = (chunk: Buffer): void => void (output = `${output}${chunk.toString()}`.slice(-4000));
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const ended = once(child, 'exit').then(([code]) => Number(code ?? 1));
  const info = await Promise.race([
    until(async () => readSite(file, before), startTimeoutMs),
    ended.then((code) => {
      throw new Error(`faas up ended with code ${code}\n${output}`);
    }),
  ]);
  const nats = await connect({ servers: info.nats.url });
  return {
    dir,
    url: info.url,
    mqttUrl: info.mqtt?.url ?? '',
    nats,
    faas: (...args) => faas(dir, args),
    ended,
    async stop() {
      await nats.close();
      child.kill('SIGTERM');
      await ended;
    },
  };
}

interface SiteFile {
  url: string;
  nats: { url: string };
  mqtt?: { url: string };
}

async function readSite(file: string, before: string | undefined): Promise<SiteFile | undefined> {
  const text = await read(file);
  if (text === undefined || text === before) return undefined;
  return JSON.parse(text) as SiteFile;
}

const read = (file: string): Promise<string | undefined> => readFile(file, 'utf8').catch(() => undefined);

async function faas(dir: string, args: string[]): Promise<{ stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [faasPath, ...args, '--site', dir], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0)
    throw new Error(`faas ${args.join(' ')} ended with code ${code}\n${output.stderr}${output.stdout}`);
  return output;
}

/** Values of a subject, from now on. */
export function listen(nats: NatsConnection, subject: string): AsyncGenerator<unknown> {
  const subscription = nats.subscribe(subject);
  // Lost answers show as a row that failed, not as one that hangs.
  const timer = setTimeout(() => subscription.unsubscribe(), answerTimeoutMs);
  async function* values(): AsyncGenerator<unknown> {
    try {
      for await (const message of subscription) yield message.json();
    } finally {
      clearTimeout(timer);
      subscription.unsubscribe();
    }
  }
  return values();
}

export async function firstOf(values: AsyncGenerator<unknown>): Promise<unknown> {
  for await (const value of values) return value;
  throw new Error(`no answer within ${answerTimeoutMs / 1000} s`);
}

/** Asks again every 100 ms until there is something. */
export async function until<T>(ask: () => Promise<T | undefined>, timeoutMs = answerTimeoutMs): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const found = await ask();
    if (found !== undefined) return found;
    if (Date.now() > deadline) throw new Error(`nothing within ${timeoutMs / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

export function expectEqual(got: unknown, wanted: unknown): void {
  if (got !== wanted) throw new Error(`expected ${JSON.stringify(wanted)}, got ${JSON.stringify(got)}`);
}
