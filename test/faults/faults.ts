/** Every fault, in one table: `nothing is lost when …`. A new one is an entry here. */
import { setTimeout as pause } from 'node:timers/promises';
import { isSameProcess } from '../../runtime/process/identity.ts';
import { until } from '../e2e/site.ts';
import type { Fault, Part, World } from './fire.ts';
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

function kill(part: Part): Fault['strike'] {
  return async (world) => {
    const victim = await find(world, part);
    process.kill(victim.pid, 'SIGKILL');
    await until(`${part} is gone`, () => !isSameProcess(victim.pid, victim.startTime) || undefined);
  };
}

function freeze(part: Part): Fault['strike'] {
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
