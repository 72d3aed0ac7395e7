import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { startMosquitto } from './mosquitto.ts';
import { missingNetwork, startNetwork } from './network.ts';
import { startProcess } from './process.ts';

const skipped = missingNetwork();

test.skipIf(skipped)('one way to a server is cut without a word, the other goes on', async () => {
  const { place, cut, heal } = startNetwork();
  const { port } = await startMosquitto({ place });
  expect(await opens(place.siteHost, port)).toBe('open');
  cut();
  expect(await opens(place.siteHost, port)).toBe('silence');
  expect(await opens(place.host, port)).toBe('open');
  heal();
  expect(await opens(place.siteHost, port)).toBe('open');
});

test.skipIf(skipped)(
  'a link that is down is known inside at once, and is as it was when it is up again',
  async () => {
    const { place, outsideHost, cut, heal } = startNetwork();
    const { port } = await startMosquitto({ place });
    const wayOut = (): string => {
      const { command, args } = place.enter({ command: 'ip', args: ['route', 'get', outsideHost] });
      return execFileSync(command, args, { encoding: 'utf8', stdio: 'pipe' });
    };
    const before = wayOut();
    cut('link');
    expect(wayOut).toThrow('Network is unreachable');
    expect(await opens(place.siteHost, port)).not.toBe('open');
    expect(await opens(place.host, port)).toBe('open');
    heal();
    expect(wayOut()).toBe(before);
    expect(await opens(place.siteHost, port)).toBe('open');
  },
);

test.skipIf(skipped)('all that runs in a network is killed, what others started there too', async () => {
  const network = startNetwork();
  // What left its parent and its group is no child of the test any more.
  const script = 'setsid sleep 300 & echo started; exec sleep 300';
  const { command, args } = network.place.enter({ command: 'sh', args: ['-c', script] });
  const there = await startProcess(command, args);
  await there.line(/started/);
  const outside = await startProcess('sleep', ['300']);
  await network.kill();
  expect((await there.exited).signal).toBe('SIGKILL');
  expect(outside.running).toBe(true);
});

/** "open", or why not. */
async function opens(host: string, port: number): Promise<string> {
  const socket = connect({ host, port, timeout: 1_500 });
  socket.on('timeout', () => socket.destroy(new Error('silence')));
  return await once(socket, 'connect')
    .then(
      () => 'open',
      (error: Error) => error.message,
    )
    .finally(() => socket.destroy());
}
