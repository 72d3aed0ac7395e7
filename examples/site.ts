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

/** `faas up`, whatever the site is. */
export interface Up {
  readonly dir: string;
  readonly info: SiteFile;
  /** Resolves when `faas up` has ended by itself or after stop(). */
  readonly ended: Promise<number>;
  /** Runs the command; throws with its error output when it fails. */
  faas(...args: string[]): Promise<{ stdout: string; stderr: string }>;
  stop(): Promise<void>;
}

export interface UpOptions {
  /** Whether what it prints is seen; else it is told where the start fails. */
  readonly show: boolean;
  readonly args?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** The program that runs it, such as one that sets ROS up; by default none. */
  readonly within?: string;
  /** Told how to end it as soon as there is something to end, and so before this resolves. */
  readonly onSpawn?: (stop: () => Promise<void>) => void;
}

export interface Site extends Connections, Omit<Up, 'info'> {}

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
  const up = await startUp(dir, options);
  const nats = await connect({ servers: up.info.nats.url });
  return {
    dir,
    url: up.info.url,
    mqttUrl: up.info.mqtt?.url ?? '',
    nats,
    faas: up.faas,
    ended: up.ended,
    async stop() {
      await nats.close();
      await up.stop();
    },
  };
}

export async function startUp(dir: string, options: UpOptions): Promise<Up> {
  const { show, args = [], env = process.env, within, onSpawn } = options;
  const file = join(dir, 'site.json');
  // What an earlier site left behind when it was killed.
  const before = await read(file);
  const command = [process.execPath, faasPath, 'up', '--dir', dir, ...args];
  const [program = '', ...rest] = within === undefined ? command : [within, ...command];
  const child = spawn(program, rest, {
    env,
    stdio: ['ignore', show ? 'inherit' : 'pipe', show ? 'inherit' : 'pipe'],
  });
  let output = '';
  const keep = (chunk: Buffer): void => void (output = `${output}${chunk.toString()}`.slice(-4000));
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const ended = once(child, 'exit').then(([code]) => Number(code ?? 1));
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    await ended;
  };
  onSpawn?.(stop);
  let endedWith: number | undefined;
  void ended.then((code) => (endedWith = code));
  const info = await until(async () => {
    const site = await readSite(file, before);
    if (site === undefined && endedWith !== undefined) {
      throw new Error(`faas up ended with code ${endedWith}\n${output}`);
    }
    return site;
  }, startTimeoutMs);
  return { dir, info, ended, faas: (...more) => faas(dir, more), stop };
}

/** site.json, as far as an example needs it. */
export interface SiteFile {
  readonly site: string;
  readonly url: string;
  readonly nats: { readonly url: string };
  readonly mqtt?: { readonly url: string };
  /** Of a hub: where robots come in. */
  readonly leaf?: { readonly url: string };
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
