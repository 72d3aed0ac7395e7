import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { openHosts } from '../../gateway/hosts.ts';
import { closeLater } from '../support/closing.ts';
import { freePort } from '../support/ports.ts';

async function serve(port = 0): Promise<{ server: Server; address: string }> {
  const server = createServer((_request, response) => response.end('ok')).listen(port, '127.0.0.1');
  await once(server, 'listening');
  closeLater(async () => {
    server.closeAllConnections();
    server.close();
  });
  return { server, address: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

test('an address whose host is gone is forgotten, and found again when there is one', async () => {
  const hosts = openHosts();
  closeLater(() => hosts.close());
  const get = async (address: string): Promise<string> => {
    const signal = AbortSignal.timeout(10_000);
    const { body } = await hosts.request(address, {
      method: 'GET',
      path: '/',
      headers: {},
      body: null,
      signal,
      waitMs: 5_000,
    });
    return body.text();
  };
  const stays = await serve();
  const goes = await serve();
  expect([await get(stays.address), await get(goes.address)]).toEqual(['ok', 'ok']);
  expect(hosts.addresses).toEqual([stays.address, goes.address]);

  goes.server.closeAllConnections();
  goes.server.close();
  await expect.poll(() => hosts.addresses).toEqual([stays.address]);
  await expect(get(goes.address)).rejects.toMatchObject({ code: 'FunctionNotReady' });
  await expect.poll(() => hosts.addresses).toEqual([stays.address]);
  await serve(Number(new URL(goes.address).port));
  expect(await get(goes.address)).toBe('ok');

  const nobody = `http://127.0.0.1:${await freePort()}`;
  await expect(get(nobody)).rejects.toMatchObject({ code: 'FunctionNotReady' });
  await expect.poll(() => hosts.addresses).not.toContain(nobody);
});
