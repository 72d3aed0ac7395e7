/** Every fault, in one table: `nothing is lost when …`. A new one is an entry here. */
import { setTimeout as pause } from 'node:timers/promises';
import { join } from 'node:path';
import { isSameProcess } from '../../runtime/process/identity.ts';
import { until, type Site } from '../e2e/site.ts';
import type { Closing } from '../support/closing.ts';
import { startDisk } from '../support/disk.ts';
import { startNetwork } from '../support/network.ts';
import { startClock } from './clock.ts';
import type { Arrangement, Fault, Part, World } from './fire.ts';
import { scale } from './scale.ts';

/** kill -9 in the middle of the work, several times; mosquitto is asked to end, since it promises no more. */
export const kills: readonly Fault[] = [
  { name: 'handler processes are killed', mqtt: 'nats-server', times: 3, strike: kill('invoker/child') },
  { name: 'the host is killed', mqtt: 5, times: 2, strike: kill('runtime/main') },
  { name: 'nats-server is killed', times: 2, strike: kill('nats-server') },
  {
    name: 'nats-server is killed, which is the MQTT broker',
    mqtt: 'nats-server',
    times: 2,
    strike: kill('nats-server'),
  },
  {
    name: '"faas up" is killed and started again',
    times: 2,
    async strike({ site }) {
      await site.kill();
      await site.start();
    },
  },
  {
    name: 'mosquitto is stopped and started again',
    times: 2,
    strike: restartMosquitto,
  },
  {
    name: 'mosquitto is stopped and started again, MQTT 5',
    mqtt: 5,
    times: 2,
    strike: restartMosquitto,
  },
];

/** SIGSTOP: connections stay open and nothing answers. */
export const freezes: readonly Fault[] = [
  { name: 'nats-server stands still', strike: freeze('nats-server') },
  { name: 'the host stands still', strike: freeze('runtime/main') },
  {
    name: 'mosquitto stands still',
    async strike({ mosquitto }) {
      await mosquitto?.pause();
      await pause(scale.faultMs);
      mosquitto?.resume();
    },
  },
];

/** Between the site and both of its brokers packets are dropped, not refused. */
export const cuts: readonly Fault[] = [
  {
    name: 'the network to NATS and MQTT is cut',
    nats: 'apart',
    arrange: behindNetwork(({ cut, heal }) => async () => {
      cut();
      await pause(scale.faultMs);
      heal();
    }),
  },
  {
    name: 'connections to NATS and MQTT are half open',
    nats: 'apart',
    mqtt: 5,
    // Both brokers come back without the connections that the site still believes in.
    arrange: behindNetwork(({ cut, heal }) => async ({ nats, mosquitto }) => {
      cut();
      await Promise.all([
        nats?.kill().then(() => nats.restart()),
        mosquitto?.stop().then(() => mosquitto.restart()),
        pause(scale.faultMs),
      ]);
      heal();
    }),
  },
];

/** Not a byte fits any more, for a while. */
export const fullDisks: readonly Fault[] = [
  {
    name: "the disk of the site is full, its nats-server's too",
    arrange: async (closing) => {
      const disk = await startDisk({ megabytes: diskMegabytes, closing });
      return { folder: disk.path, strike: fillFor(disk) };
    },
  },
  { name: 'the disk of a nats-server apart is full', nats: 'apart', mqtt: 5, arrange: fullUnderNats },
  {
    name: 'the disk is full under a work queue',
    nats: 'apart',
    stream: 'workqueue',
    arrange: fullUnderNats,
  },
  {
    name: 'the disk of mosquitto is full, and it is stopped when there is space again',
    arrange: async (closing) => {
      const disk = await startDisk({ megabytes: diskMegabytes, closing });
      return {
        mosquittoStoreDir: join(disk.path, 'store'),
        // It tries to save all the time, and fails.
        mosquittoConfig: 'autosave_interval 100\nautosave_on_changes true',
        async strike(world) {
          await fillFor(disk)();
          await restartMosquitto(world);
        },
      };
    },
  },
];

/** Of the site's own processes; brokers and senders keep theirs. */
export const clockJumps: readonly Fault[] = [
  { name: 'the clock jumps an hour ahead', arrange: jumping('+1h') },
  { name: 'the clock jumps an hour back', mqtt: 'nats-server', arrange: jumping('-1h') },
];

/** Holds what the flows leave in JetStream, with room to spare. */
const diskMegabytes = scale.events > 10_000 ? 1_024 : 192;

function behindNetwork(
  strike: (network: ReturnType<typeof startNetwork>) => Required<Arrangement>['strike'],
): Required<Fault>['arrange'] {
  return async (closing) => {
    const network = startNetwork({ closing });
    return { place: network.place, strike: strike(network) };
  };
}

async function fullUnderNats(closing: Closing): Promise<Arrangement> {
  const disk = await startDisk({ megabytes: diskMegabytes, closing });
  return {
    natsStoreDir: join(disk.path, 'store'),
    async strike({ nats }) {
      await fillFor(disk)();
      // A stream that could not be written stays as it is until then: docs/reference/delivery.md.
      await nats?.restart();
    },
  };
}

function fillFor(disk: Awaited<ReturnType<typeof startDisk>>): () => Promise<void> {
  return async () => {
    disk.fill();
    await pause(scale.faultMs);
    disk.free();
  };
}

function jumping(offset: '+1h' | '-1h'): Required<Fault>['arrange'] {
  return async (closing: Closing) => {
    const clock = await startClock({ closing });
    return {
      env: clock.env,
      variables: clock.variables,
      async strike({ site }) {
        await clock.jump(offset);
        await believes(site);
        await pause(scale.faultMs);
        await clock.jump('+0');
      },
    };
  };
}

/** Resolves when the site takes another hour for the present one. */
export async function believes(site: Site): Promise<void> {
  await until('the site believes it', async () => {
    const told = Date.parse((await site.fetch('/')).headers.get('date') ?? '');
    return Math.abs(told - Date.now()) > 50 * 60_000 || undefined;
  });
}

function kill(part: Part): Required<Fault>['strike'] {
  return async (world) => {
    const victim = await find(world, part);
    process.kill(victim.pid, 'SIGKILL');
    await until(`${part} is gone`, () => !isSameProcess(victim.pid, victim.startTime) || undefined);
  };
}

function freeze(part: Part): Required<Fault>['strike'] {
  return async (world) => {
    const { pid } = await find(world, part);
    process.kill(pid, 'SIGSTOP');
    await pause(scale.faultMs);
    process.kill(pid, 'SIGCONT');
  };
}

async function restartMosquitto({ mosquitto, random }: World): Promise<void> {
  await mosquitto?.stop();
  await pause(random.between(0, 1_000));
  await mosquitto?.restart();
}

/** After an earlier strike there may be none for a moment. */
function find(world: World, part: Part) {
  return until(`there is a ${part}`, () => world.process(part));
}
