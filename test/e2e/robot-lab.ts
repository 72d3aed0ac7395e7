/** A hub and robots, each in a network of its own whose link can be cut, with a program on each that keeps messages. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, type JetStreamManager, type JsMsg } from '@nats-io/jetstream';
import { startSite, type TestSite } from '../cli/run.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startNetwork, type Network } from '../support/network.ts';
import { freePort } from '../support/ports.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { managerOf, online, ours, robotArgs, startHub, until, type Hub } from './fleet.ts';

/** A plain source needs up to 49 s after a longer cut. */
export const catchUpMs = 90_000;

export interface LabRobot {
  readonly id: string;
  readonly network: Network;
  readonly site: TestSite;
  readonly program: RunningProcess;
  /** All of the site at once; its program goes on. */
  kill(): Promise<void>;
  /** All that runs on it at once, its program too. */
  killWhole(): Promise<void>;
  /** What was killed. */
  start(): Promise<void>;
  /** Messages that were stored on it, by its program's word. */
  stored(): number;
  /** Subjects that its program heard, of all that pass on its server; `foreign` name another robot. */
  heard(): { readonly own: ReadonlySet<string>; readonly foreign: ReadonlySet<string> };
}

export interface RobotLab {
  readonly hub: Hub;
  readonly robots: readonly LabRobot[];
  restartHub(): Promise<void>;
  manager(): Promise<JetStreamManager>;
  /** How many messages of each robot's program the hub has. */
  received(): Promise<Record<string, number>>;
  /** What the hub has of `robots.<robot>.kept.<topic>`, in its order. */
  kept(robot: string, topic: string): Promise<JsMsg[]>;
  /**
   * ms until the hub has what was stored when it was asked, and what came meanwhile up to half a second's worth.
   */
  catchUp(robot: LabRobot): Promise<number>;
  /** Ends the programs, and takes of each robot what the hub has then, in order. */
  close(): Promise<Record<string, { readonly stored: number; readonly got: readonly number[] }>>;
}

export interface LabOptions {
  readonly robots: readonly string[];
  /** Messages that each program keeps, if its robot lets it. */
  readonly perSecond: number;
  /** Of a robot's site; a folder of its own by default. */
  readonly dir?: string;
  /** Of the sites of robots. */
  readonly env?: Record<string, string> | ((robot: string) => Promise<Record<string, string>>);
}

export async function startLab({ robots: ids, perSecond, dir, env }: LabOptions): Promise<RobotLab> {
  const keys = join(await temporaryFolder(), 'keys');
  await writeFile(keys, '{"id":"test","secret":"a-long-secret-of-this-test-only-0123456789"}\n', {
    mode: 0o600,
  });
  const port = String(await freePort());
  const args = ['--control', '--insecure', '--leaf-port', port, '--host', '0.0.0.0', '--keys', keys];
  let hub = await startHub({ args });

  async function openRobot(id: string): Promise<LabRobot> {
    const network = startNetwork();
    const { place } = network;
    const folder = dir ?? join(await temporaryFolder(), '.atoll');
    const file = await hub.add(id);
    const own = typeof env === 'function' ? await env(id) : env;
    const startSiteOfIt = (): Promise<TestSite> =>
      startSite({
        dir: folder,
        place,
        args: [...robotArgs(id, file, `nats://${network.outsideHost}:${port}`), '--insecure'],
        ...(own && { env: own }),
      });
    let stored = 0;
    const heard = { own: new Set<string>(), foreign: new Set<string>() };
    const onLine = (line: string): void => {
      const [word = '', subject] = line.split(' ');
      if (subject === undefined) stored = Number(word);
      else heard[word as keyof typeof heard].add(subject);
    };
    const startProgram = async (): Promise<RunningProcess> => {
      const script = join(import.meta.dirname, 'robot-program.ts');
      const args = [script, folder, String(perSecond), String(stored + 1)];
      const launch = place.enter({ command: process.execPath, args });
      const started = await startProcess(launch.command, launch.args, { name: `a program of ${id}`, onLine });
      await started.line(/^\d+$/);
      return started;
    };
    let site = await startSiteOfIt();
    await online(hub, id);
    let program = await startProgram();
    return {
      id,
      network,
      get program() {
        return program;
      },
      get site() {
        return site;
      },
      async kill() {
        process.kill(site.info.pid, 'SIGKILL');
        await site.process.exited;
      },
      async killWhole() {
        await network.kill();
        await Promise.all([site.process.exited, program.exited]);
      },
      async start() {
        site = await startSiteOfIt();
        if (!program.running) program = await startProgram();
      },
      stored: () => stored,
      heard: () => heard,
    };
  }

  const robots = await inPairs(ids, openRobot);
  const manager = async (): Promise<JetStreamManager> => managerOf(await ours(hub));

  async function received(at: JetStreamManager): Promise<Record<string, number>> {
    const { state } = await at.streams.info('TELEMETRY', { subjects_filter: 'robots.*.kept.count' });
    const counts = Object.entries(state.subjects ?? {}).map(([subject, count]) => [
      subject.split('.')[1],
      count,
    ]);
    return Object.fromEntries(counts) as Record<string, number>;
  }

  async function kept(robot: string, topic: string): Promise<JsMsg[]> {
    const subject = `robots.${robot}.kept.${topic}`;
    const connection = await ours(hub);
    const { state } = await (
      await managerOf(connection)
    ).streams.info('TELEMETRY', { subjects_filter: subject });
    const count = Object.values(state.subjects ?? {}).reduce((sum, one) => sum + one, 0);
    const messages: JsMsg[] = [];
    if (count === 0) return messages;
    const options = { filter_subjects: subject };
    const consumer = await jetstream(connection).consumers.get('TELEMETRY', options);
    let lastSeq = 0;
    for await (const message of await consumer.consume()) {
      // What is asked is what the hub has, each of which has one number there, and not how often it is read.
      if (message.seq <= lastSeq) continue;
      lastSeq = message.seq;
      messages.push(message);
      if (messages.length === count) break;
    }
    return messages;
  }

  return {
    get hub() {
      return hub;
    },
    robots,
    async restartHub() {
      process.kill(hub.info.pid, 'SIGKILL');
      await hub.process.exited;
      hub = await startHub({ dir: hub.dir, args });
    },
    manager,
    received: async () => received(await manager()),
    kept,
    async catchUp({ id, stored }) {
      const at = await manager();
      const since = performance.now();
      await until(
        `the hub has caught up with ${id}`,
        async () => {
          const { [id]: has = 0 } = await received(at).catch(() => ({}) as Record<string, number>);
          return stored() - has <= perSecond / 2 ? true : undefined;
        },
        catchUpMs,
      );
      return Math.round(performance.now() - since);
    },
    async close() {
      for (const { program } of robots) program.signal('SIGTERM');
      await Promise.all(robots.map(({ program }) => program.exited));
      const at = await manager();
      await until(
        'the hub has all',
        async () => {
          const has = await received(at);
          return robots.every(({ id, stored }) => (has[id] ?? 0) >= stored()) ? true : undefined;
        },
        catchUpMs,
      );
      const books = robots.map(async ({ id, stored }) => {
        const got = (await kept(id, 'count')).map((message) => Number(message.string()));
        return [id, { stored: stored(), got }] as const;
      });
      return Object.fromEntries(await Promise.all(books));
    },
  };
}

/** Two at a time are what two cores can carry. */
export async function inPairs<T, R>(all: readonly T[], work: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let at = 0; at < all.length; at += 2) {
    results.push(...(await Promise.all(all.slice(at, at + 2).map(work))));
  }
  return results;
}
