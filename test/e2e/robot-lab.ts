/** A hub and robots, each in a network of its own whose link can be cut, with a program on each that keeps messages. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, type JetStreamManager } from '@nats-io/jetstream';
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
  start(): Promise<void>;
  /** Messages that were stored on it, by its program's word. */
  stored(): number;
  /** Subjects of other robots that its program heard. */
  heard(): string[];
}

export interface RobotLab {
  readonly hub: Hub;
  readonly robots: readonly LabRobot[];
  restartHub(): Promise<void>;
  manager(): Promise<JetStreamManager>;
  /** How many messages of each robot the hub has. */
  received(): Promise<Record<string, number>>;
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
  readonly env?: Record<string, string>;
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
    const start = (): Promise<TestSite> =>
      startSite({
        dir: folder,
        place,
        args: [...robotArgs(id, file, `nats://${network.outsideHost}:${port}`), '--insecure'],
        ...(env && { env }),
      });
    let site = await start();
    await online(hub, id);
    const script = join(import.meta.dirname, 'robot-program.ts');
    const launch = place.enter({ command: process.execPath, args: [script, folder, String(perSecond)] });
    const program = await startProcess(launch.command, launch.args, { name: `a program of ${id}` });
    await program.line(/^1$/);
    const lines = (pattern: RegExp): string[] =>
      program
        .stdout()
        .split('\n')
        .filter((line) => pattern.test(line));
    return {
      id,
      network,
      program,
      get site() {
        return site;
      },
      async kill() {
        process.kill(site.info.pid, 'SIGKILL');
        await site.process.exited;
      },
      async start() {
        site = await start();
      },
      stored: () => Number(lines(/^\d+$/).at(-1) ?? 0),
      heard: () => [...new Set(lines(/^heard /))],
    };
  }

  // Two at a time are what two cores can carry.
  const robots: LabRobot[] = [];
  for (let at = 0; at < ids.length; at += 2) {
    robots.push(...(await Promise.all(ids.slice(at, at + 2).map(openRobot))));
  }

  const manager = async (): Promise<JetStreamManager> => managerOf(await ours(hub));

  async function received(at: JetStreamManager): Promise<Record<string, number>> {
    const { state } = await at.streams.info('TELEMETRY', { subjects_filter: '>' });
    const counts = Object.entries(state.subjects ?? {}).map(([subject, count]) => [
      subject.split('.')[1],
      count,
    ]);
    return Object.fromEntries(counts) as Record<string, number>;
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
      const got = await messagesOf(hub, at);
      return Object.fromEntries(
        robots.map(({ id, stored }) => [id, { stored: stored(), got: got.get(id) ?? [] }]),
      );
    },
  };
}

/** All that the hub has, by robot, in its order. */
async function messagesOf(hub: Hub, at: JetStreamManager): Promise<Map<string, number[]>> {
  const { last_seq: last } = (await at.streams.info('TELEMETRY')).state;
  const consumer = await jetstream(await ours(hub)).consumers.get('TELEMETRY');
  const got = new Map<string, number[]>();
  for await (const message of await consumer.consume()) {
    const robot = message.subject.split('.')[1] ?? '';
    const numbers = got.get(robot) ?? [];
    if (numbers.push(Number(message.string())) === 1) got.set(robot, numbers);
    if (message.seq === last) break;
  }
  return got;
}
