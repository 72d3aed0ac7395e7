/** A hub and robots as `faas` runs them, and connections as their programs have them. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { RobotPresence } from '../../controller/broker/presence.ts';
import { startSite, type TestSite } from '../cli/run.ts';
import { closeLater, type Closing } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { freePort } from '../support/ports.ts';

export interface Hub extends TestSite {
  /** For `--hub`, where robots are on the same machine. */
  readonly url: string;
  presence(): Promise<RobotPresence[]>;
  /** `faas robot add`; where the file is that the robot is to have. */
  add(robot: string, args?: readonly string[]): Promise<string>;
}

export async function startHub(
  options: { dir?: string; args?: readonly string[]; closing?: Closing } = {},
): Promise<Hub> {
  const args = options.args ?? ['--control', '--leaf-port', String(await freePort())];
  const site = await startSite({ ...options, args: [...args] });
  const folder = await temporaryFolder({ closing: options.closing });
  return {
    ...site,
    url: site.info.leaf!.url.replace('nats-leaf:', 'nats:'),
    async presence() {
      // Asked again and again: a process each time would be most of what the test does.
      const response = await fetch(`${site.info.url}/atoll/v1/robots`, {
        headers: await authorization(site),
      });
      if (!response.ok) throw new Error(`the hub answered ${response.status}: ${await response.text()}`);
      return ((await response.json()) as { robots: RobotPresence[] }).robots;
    },
    async add(robot, more = []) {
      return (await site.ok(['robot', 'add', robot, '--out', join(folder, `${robot}.json`), ...more])).trim();
    },
  };
}

/** With the first of the site's keys, where it asks for any. */
async function authorization({ dir }: TestSite): Promise<Record<string, string>> {
  const text = await readFile(join(dir, 'keys'), 'utf8').catch(() => '');
  if (text === '') return {};
  const { id, secret } = JSON.parse(text.split('\n')[0]!) as Record<string, string>;
  return { authorization: `Bearer ${id}.${secret}` };
}

export const robotArgs = (robot: string, file: string, hubUrl: string): string[] => [
  ...['--robot', robot, '--robot-file', file, '--hub', hubUrl],
];

/** As our own hosts: everything in the account of the site. */
export async function ours(site: TestSite, closing?: Closing): Promise<NatsConnection> {
  return await login(site, 'nats.json', closing);
}

/** As any other program on the machine. */
export async function program(site: TestSite, closing?: Closing): Promise<NatsConnection> {
  return await login(site, 'programs.json', closing);
}

async function login(site: TestSite, file: string, closing?: Closing): Promise<NatsConnection> {
  const { user, pass } = JSON.parse(await readFile(join(site.dir, file), 'utf8')) as Record<string, string>;
  const connection = await connect({
    servers: site.info.nats.url,
    user: user ?? '',
    pass: pass ?? '',
    inboxPrefix: `_INBOX.${site.info.site}`,
  });
  closeLater(() => connection.close(), closing);
  return connection;
}

export const managerOf = (connection: NatsConnection): Promise<JetStreamManager> =>
  jetstreamManager(connection, { checkAPI: false });

export async function until<T>(what: string, holds: () => Promise<T | undefined>, ms = 60_000): Promise<T> {
  const deadline = performance.now() + ms;
  for (;;) {
    const value = await holds();
    if (value !== undefined) return value;
    if (performance.now() > deadline) throw new Error(`it never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export const online = (hub: Hub, robot: string, ms?: number): Promise<RobotPresence> =>
  until(
    `${robot} is online`,
    async () => (await hub.presence()).find((one) => one.robot === robot && one.online),
    ms,
  );
