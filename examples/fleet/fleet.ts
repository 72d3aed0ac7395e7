/** A hub and its robots on one machine, started by the commands that a site uses on several. */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { startUp, until, type Up } from '../site.ts';
import { openLink, type Link } from './link.ts';
import { rosEnvironment, takeDomain } from './ros.ts';
import { startSimulatedRobot, type SimulatedRobot } from './simulated-robot.ts';

export interface Robot {
  readonly id: string;
  /** `faas up --robot`: nats-server, functions, and the one ROS process they share. */
  readonly site: Up;
  readonly link: Link;
  readonly simulated: SimulatedRobot;
}

export interface Fleet {
  /** `faas up --control`. */
  readonly hub: Up;
  /** At the hub, as any program there has it. */
  readonly nats: NatsConnection;
  readonly manager: JetStreamManager;
  readonly robots: readonly Robot[];
}

/** Is told how to end each part, which is to happen in the reverse order. */
export type Later = (stop: () => Promise<void>) => void;

export interface FleetOptions {
  /** Everything that is written lies there. */
  readonly dir: string;
  readonly robots: number;
  /** The program that runs a command in ROS's environment. */
  readonly withRos: string;
  readonly tell: (line: string) => void;
  readonly later: Later;
}

export async function startFleet({ dir, robots: count, withRos, tell, later }: FleetOptions): Promise<Fleet> {
  tell(
    'starting the hub: faas up --control (the first start builds nats-server, which takes about a minute)',
  );
  const leafPort = String(await freePort());
  const hub = await startUp(join(dir, 'hub'), {
    show: false,
    args: ['--control', '--leaf-port', leafPort, '--port', '0'],
    onSpawn: later,
  });
  const login = JSON.parse(await readFile(join(hub.dir, 'programs.json'), 'utf8')) as {
    user: string;
    pass: string;
  };
  // Answers of robots come back over their links by this prefix only.
  const inboxPrefix = `_INBOX.${hub.info.site}`;
  const nats = await connect({ servers: hub.info.nats.url, ...login, inboxPrefix });
  later(() => nats.close());

  const startRobot = async (id: string): Promise<Robot> => {
    const file = join(dir, `${id}.json`);
    await hub.faas('robot', 'add', id, '--out', file);
    const link = await openLink({ hostname: '127.0.0.1', port: Number(leafPort) });
    later(() => link.close());
    const domain = await takeDomain();
    later(async () => domain.close());
    const env = rosEnvironment(domain, join(dir, `${id}-ros-logs`));
    tell(`starting ${id}: faas up --robot ${id} --hub ${link.url}, ROS domain ${domain.id}`);
    const site = await startUp(join(dir, id), {
      show: false,
      args: ['--robot', id, '--robot-file', file, '--hub', link.url, '--port', '0'],
      env,
      within: withRos,
      onSpawn: later,
    });
    const simulated = await startSimulatedRobot(withRos, env);
    later(() => simulated.stop());
    return { id, site, link, simulated };
  };
  const robots: Robot[] = [];
  for (let number = 1; number <= count; number += 1) robots.push(await startRobot(`robot${number}`));
  const fleet = { hub, nats, manager: await jetstreamManager(nats, { checkAPI: false }), robots };
  await untilSeen(fleet, (seen) => robots.every(({ id }) => seen.get(id) === true));
  return fleet;
}

/** Asks `faas robots` at the hub until it says what it should of each: whether it is online. */
export async function untilSeen(
  { hub }: Pick<Fleet, 'hub'>,
  holds: (online: ReadonlyMap<string, boolean>) => boolean,
): Promise<void> {
  await until(async () => {
    const { stdout } = await hub.faas('robots', '-o', 'json');
    const seen = JSON.parse(stdout) as { robot: string; online: boolean }[];
    return holds(new Map(seen.map(({ robot, online }) => [robot, online]))) || undefined;
  }, 60_000);
}

/** A hub listens for links where it was told to, and nowhere else. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
