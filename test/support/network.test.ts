import { once } from 'node:events';
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { startMosquitto } from './mosquitto.ts';
import { missingNetwork, startNetwork } from './network.ts';

test.skipIf(missingNetwork())('one way to a server is cut without a word, the other goes on', async () => {
  const { place, cut, heal } = startNetwork();
  const { port } = await startMosquitto({ place });
  const opens = async (host: string): Promise<boolean> => {
    const socket = connect({ host, port, timeout: 1_500 });
    socket.on('timeout', () => socket.destroy(new Error('silence')));
    return await once(socket, 'connect')
      .then(
        () => true,
        (error: Error) => (expect(error.message).toBe('silence'), false),
      )
      .finally(() => socket.destroy());
  };
  expect(await opens(place.siteHost)).toBe(true);
  cut();
  expect(await opens(place.siteHost)).toBe(false);
  expect(await opens(place.host)).toBe(true);
  heal();
  expect(await opens(place.siteHost)).toBe(true);
});
