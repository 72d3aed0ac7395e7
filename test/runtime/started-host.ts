/** A whole host inside the test, its functions in handler processes of their own, with what it logs kept to be waited for. */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { request, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { Writable } from 'node:stream';
import { validate } from '../../crds/function.ts';
import type { FunctionConfig, HostStatusLine, RuntimeConfig } from '../../runtime/config.ts';
import { openLog, type LogRecord } from '../../runtime/log.ts';
import { startHost, type Host } from '../../runtime/start.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startNats } from '../support/nats.ts';

export interface Answer {
  readonly status: number | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

export interface StartedHost extends Pick<Host, 'stop'> {
  readonly logs: readonly LogRecord[];
  ask(path: string, payload?: unknown, headers?: Record<string, string>): Promise<Answer>;
  invoke(name: string, payload?: unknown): Promise<unknown>;
  /** The list of functions becomes this one; a text stands for a config file that somebody broke. */
  reload(functions: readonly FunctionConfig[] | string): Promise<void>;
  /** What ?watch=true tells, from the present state to the end of the answer. */
  watch(): Promise<AsyncIterableIterator<HostStatusLine>>;
  /** Each function answers with the code of its last generation, and its triggers are open. */
  untilReady(...functions: FunctionConfig[]): Promise<void>;
  /** The first record that fits, of those that were written or of those to come. */
  untilLogged(fits: (record: LogRecord) => boolean): Promise<LogRecord>;
}

/** Without code it is a function that was applied and not deployed yet. */
export function functionConfig(
  name: string,
  code?: string,
  given: { uid?: string; generation?: number; spec?: object } = {},
): FunctionConfig {
  const verdict = validate({
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name },
    spec: { ...(code !== undefined && { package: { inline: code } }), ...given.spec },
  });
  if (!verdict.ok) throw new Error(JSON.stringify(verdict.problems));
  const { uid = `uid-${name}`, generation = 1 } = given;
  return { namespace: 'default', name, uid, generation, spec: verdict.object.spec, env: [] };
}

export async function startedHost(
  functions: readonly FunctionConfig[],
  settings: Partial<Pick<RuntimeConfig, 'nats' | 'mqtt' | 'ros' | 'goodbyeMs' | 'permissions'>> = {},
): Promise<StartedHost> {
  const folder = await temporaryFolder();
  const path = join(folder, 'host.json');
  const socketPath = join(folder, 'host.sock');
  const write = (list: readonly FunctionConfig[] | string): Promise<void> => {
    const config = {
      site: 'local',
      listen: { path: socketPath },
      packages: { cache: join(folder, 'cache') },
      ...settings,
    };
    const content = typeof list === 'string' ? list : JSON.stringify({ ...config, functions: list });
    return writeFile(path, content, { mode: 0o600 });
  };

  const logs: LogRecord[] = [];
  const listeners = new Set<(record: LogRecord) => void>();
  const destination = new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString().split('\n').filter(Boolean)) {
        const record = JSON.parse(line) as LogRecord;
        logs.push(record);
        for (const listener of listeners) listener(record);
      }
      done();
    },
  });

  await write(functions);
  const host = await startHost(path, openLog({ destination }));
  const stop = closeLater(() => host.stop());

  async function open(
    target: string,
    payload?: unknown,
    headers: Record<string, string> = {},
  ): Promise<IncomingMessage> {
    const method = payload === undefined ? 'GET' : 'POST';
    const asked = request({ socketPath, path: target, method, headers, agent: false });
    asked.end(payload === undefined ? undefined : JSON.stringify(payload));
    const [response] = (await once(asked, 'response')) as [IncomingMessage];
    return response;
  }
  async function ask(target: string, payload?: unknown, headers?: Record<string, string>): Promise<Answer> {
    const response = await open(target, payload, headers);
    return { status: response.statusCode, headers: response.headers, body: await text(response) };
  }
  async function* watched(response: IncomingMessage): AsyncGenerator<HostStatusLine> {
    try {
      for await (const line of createInterface({ input: response })) yield JSON.parse(line) as HostStatusLine;
    } finally {
      response.destroy();
    }
  }
  const watch = async (): Promise<AsyncIterableIterator<HostStatusLine>> =>
    watched(await open('/status?watch=true'));

  return {
    logs,
    stop,
    ask,
    watch,
    async invoke(name, payload = null) {
      const { status, headers, body } = await ask(`/invoke/default/${name}`, payload);
      if (headers['atoll-outcome'] !== 'returned') throw new Error(`${name} answered ${status}: ${body}`);
      return JSON.parse(body) as unknown;
    },
    async reload(list) {
      await write(list);
      await host.reload();
    },
    async untilReady(...wanted) {
      const missing = new Map(wanted.map(({ name, uid, generation }) => [name, `${uid} ${generation}`]));
      for await (const line of await watch()) {
        if (!('function' in line)) continue;
        const { name, uid, generation, handler, triggers } = line.function;
        const ready = handler.ready && triggers.every((trigger) => trigger.ready);
        if (ready && missing.get(name) === `${uid} ${generation}`) missing.delete(name);
        if (missing.size === 0) return;
      }
      throw new Error(`the host stopped before these were ready: ${[...missing.keys()].join(', ')}`);
    },
    untilLogged(fits) {
      const found = logs.find(fits);
      if (found) return Promise.resolve(found);
      return new Promise((resolve) => {
        const listener = (record: LogRecord): void => {
          if (!fits(record)) return;
          listeners.delete(listener);
          resolve(record);
        };
        listeners.add(listener);
      });
    },
  };
}

/** A host whose functions are ready, on a nats-server of its own. */
export async function onNats(...functions: FunctionConfig[]) {
  const server = await startNats();
  const host = await startedHost(functions, { nats: { url: server.url } });
  await host.untilReady(...functions);
  return { server, client: await server.connect(), host };
}
