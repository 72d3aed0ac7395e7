import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { createConnection, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { jetstream, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { nkeys } from '@nats-io/nats-core';
import { connect, wsconnect, type NatsConnection } from '@nats-io/transport-node';
import mqtt from 'mqtt';
import { expect, test } from 'vitest';
import { users, type BrokerRole, type RobotUser } from '../../../controller/broker/configuration.ts';
import { readPasswords } from '../../../controller/broker/passwords.ts';
import { startBroker, type Broker, type BrokerOptions } from '../../../controller/broker/nats-server.ts';
import { claimSite, sitePaths } from '../../../controller/stores/site.ts';
import { openNats } from '../../../runtime/clients/nats.ts';
import { openLog } from '../../../runtime/log.ts';
import { identify } from '../../../runtime/process/identity.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { freePort } from '../../support/ports.ts';
import { requireTool } from '../../support/requirement.ts';

const log = openLog({ destination: new Writable({ write: (_chunk, _encoding, done) => done() }) });

async function start(dir: string, options: Partial<BrokerOptions> = {}): Promise<Broker> {
  const command = await requireTool('nats-server');
  const ports = { nats: await freePort(), mqtt: await freePort(), websocket: await freePort() };
  const broker = await startBroker({ paths: sitePaths(dir), site: 'local', log, command, ports, ...options });
  closeLater(() => broker.stop());
  return broker;
}

const portOf = (url: string): number => Number(new URL(url).port);

async function listen(port: number): Promise<Server> {
  const server = createServer().listen(port, '127.0.0.1');
  await once(server, 'listening');
  closeLater(async () => void server.close());
  return server;
}

test('NATS, JetStream in the domain of the site, and MQTT answer on loopback', async () => {
  const broker = await start(await temporaryFolder());
  const nats = await connect({ servers: broker.nats.url });
  closeLater(() => nats.close());
  expect(nats.info).toMatchObject({ server_name: broker.serverName, max_payload: 8 * 1024 * 1024 });
  expect(broker.serverName).toMatch(/^local-[0-9a-f]{8}$/);
  const manager = await jetstreamManager(nats, { domain: 'local' });
  expect((await manager.getAccountInfo()).domain).toBe('local');
  const device = await mqtt.connectAsync(broker.mqtt.url, { protocolVersion: 4 });
  closeLater(() => device.endAsync());
  const heard = nats.subscribe('lab.door', { max: 1 });
  await nats.flush();
  await device.publishAsync('lab/door', 'open', { qos: 1 });
  for await (const message of heard) expect(message.string()).toBe('open');
});

test('the WebSocket listener is off unless asked for, and then refuses foreign origins', async () => {
  const without = await start(await temporaryFolder());
  expect(without.websocket).toBeUndefined();
  const broker = await start(await temporaryFolder(), { websocket: true });
  const url = broker.websocket?.url ?? '';
  const nats = await wsconnect({ servers: url });
  await nats.close();
  const own = url.replace('ws:', 'http:');
  expect(await upgrade(own, own)).toBe(101);
  expect(await upgrade(own, 'http://evil.example')).toBe(403);
});

/** The status with which a WebSocket handshake of a page of that origin is answered. */
function upgrade(url: string, origin: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const asked = request(url, {
      headers: {
        connection: 'Upgrade',
        upgrade: 'websocket',
        'sec-websocket-version': '13',
        'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
        origin,
      },
    });
    asked.once('response', ({ statusCode }) => resolve(statusCode));
    asked.once('upgrade', ({ statusCode }, socket) => {
      socket.destroy();
      resolve(statusCode);
    });
    asked.once('error', reject);
    asked.end();
  });
}

test('a client may be 100 MB behind without being thrown out', { timeout: 60_000 }, async () => {
  const broker = await start(await temporaryFolder());
  const slow = createConnection(portOf(broker.nats.url), '127.0.0.1');
  closeLater(async () => void slow.destroy());
  await once(slow, 'data');
  slow.write('CONNECT {"verbose":false}\r\nSUB burst 1\r\nPING\r\n');
  let text = '';
  while (!text.includes('PONG')) text += String((await once(slow, 'data'))[0]);
  slow.pause();

  const nats = await connect({ servers: broker.nats.url });
  closeLater(() => nats.close());
  const megabyte = new Uint8Array(1024 * 1024);
  for (let count = 0; count < 100; count += 1) {
    nats.publish('burst', megabyte);
    await nats.flush();
  }

  let received = 0;
  slow.on('data', (chunk: Buffer) => (received += chunk.length));
  const closed = once(slow, 'close').then(() => 'thrown out');
  const all = new Promise((resolve) =>
    slow.on('data', () => received >= 100 * megabyte.length && resolve('all came')),
  );
  slow.resume();
  expect(await Promise.race([all, closed])).toBe('all came');
});

test('while a hub takes over keys of robots again and again, no question of ours for JetStream goes unanswered', async () => {
  const dir = await temporaryFolder();
  const passwords = await readPasswords(sitePaths(dir));
  const role = (robots: readonly RobotUser[]): BrokerRole & { kind: 'control' } => ({
    kind: 'control',
    listen: '127.0.0.1',
    robots,
    passwords,
  });
  const ports = { nats: await freePort(), mqtt: await freePort(), leaf: await freePort() };
  const broker = await start(dir, { site: 'hub', role: role([]), ports });
  const credentialsFile = join(dir, 'atoll.json');
  const login = { user: users.atoll, pass: passwords.atoll };
  await writeFile(credentialsFile, JSON.stringify(login), { mode: 0o600 });
  const link = openNats({ url: broker.nats.url, credentialsFile }, { name: 'test', site: 'hub', log });
  closeLater(() => link.close());
  const stranger = await connect({ servers: broker.nats.url, ...login });
  closeLater(() => stranger.close());
  const ours = await link.connection();
  const { streams } = await jetstreamManager(ours);
  await streams.add({ name: 'S', subjects: ['s'], storage: StorageType.Memory });

  let working = true;
  const ask = async (nc: NatsConnection): Promise<{ asked: number; failed: string[] }> => {
    const manager = await jetstreamManager(nc, { checkAPI: false });
    const told = { asked: 0, failed: [] as string[] };
    for (; working; told.asked += 1) {
      await manager.streams.info('S').catch((error: unknown) => told.failed.push(String(error)));
    }
    return told;
  };
  const asking = Promise.all([...Array.from({ length: 4 }, () => ask(ours)), ask(stranger)]);
  const key = (): string => nkeys.createUser().getPublicKey();
  const robots: RobotUser[] = [];
  for (let count = 1; count <= 20; count += 1) {
    robots.push({ robot: `robot${count}`, link: key(), claim: key() });
    await broker.configure(role([...robots]));
  }
  working = false;
  const [others, ...all] = (await asking).reverse();
  process.stdout.write(
    `keys taken over 20 times: of ${others?.asked} questions of a plain client ${others?.failed.length} found no JetStream\n`,
  );
  expect(all.flatMap(({ failed }) => failed)).toEqual([]);
  expect(all.reduce((sum, { asked }) => sum + asked, 0)).toBeGreaterThan(20);
});

test('ports stay the same from one start to the next', async () => {
  const dir = await temporaryFolder();
  const first = await start(dir);
  await first.stop();
  const second = await start(dir);
  expect([second.nats, second.mqtt]).toEqual([first.nats, first.mqtt]);
  expect(second.serverName).not.toBe(first.serverName);
});

test('ports that somebody took are replaced by free ones', async () => {
  const dir = await temporaryFolder();
  const first = await start(dir);
  await first.stop();
  await listen(portOf(first.nats.url));
  const second = await start(dir, { ports: { mqtt: portOf(first.nats.url) } });
  expect(second.nats.url).not.toBe(first.nats.url);
  expect(second.mqtt.url).toBe(first.mqtt.url);
});

test('what JetStream acknowledged is there after a kill -9 of the server, which is started again', async () => {
  const broker = await start(await temporaryFolder());
  const before = await connect({ servers: broker.nats.url });
  const { streams } = await jetstreamManager(before);
  await streams.add({ name: 'S', subjects: ['s'], storage: StorageType.File });
  for (let count = 0; count < 100; count += 1) await jetstream(before).publish('s', String(count));
  await before.close();
  const killed = broker.pid as number;
  process.kill(killed, 'SIGKILL');
  while (broker.pid === killed || broker.pid === undefined)
    await new Promise((resolve) => setImmediate(resolve));
  await broker.ready();
  expect(broker.pid).not.toBe(killed);
  const after = await connect({ servers: broker.nats.url });
  closeLater(() => after.close());
  const manager = await jetstreamManager(after);
  expect((await manager.streams.info('S')).state.messages).toBe(100);
});

test('a port that is taken between looking and binding is replaced by another', async () => {
  const dir = await temporaryFolder();
  const real = await requireTool('nats-server');
  const late = join(dir, 'nats-server');
  const once = `[ -e "${dir}/tried" ] || { touch "${dir}/tried"; echo "bind: address already in use" >&2; exit 1; }`;
  await writeFile(late, `#!/bin/sh\n${once}\nexec "${real}" "$@"\n`, { mode: 0o755 });
  const broker = await start(dir, { command: late });
  const nats = await connect({ servers: broker.nats.url });
  await nats.close();
});

test('its files are only for the owner', async () => {
  const dir = await temporaryFolder();
  await start(dir);
  const mode = async (path: string): Promise<number> => (await stat(join(dir, path))).mode & 0o777;
  expect(await mode('nats')).toBe(0o700);
  expect(await mode('nats/nats-server.conf')).toBe(0o600);
  expect(await mode('nats/ports.json')).toBe(0o600);
});

test('after a kill -9 of who started it nothing runs on, and the next one has the store', async () => {
  const dir = await temporaryFolder();
  const command = await requireTool('nats-server');
  const up = fork(join(import.meta.dirname, 'run-broker.ts'), [dir, command, String(await freePort())]);
  closeLater(async () => void up.kill('SIGKILL'));
  const [{ pid, url }] = (await once(up, 'message')) as [{ pid: number; url: string }];
  up.kill('SIGKILL');
  await once(up, 'exit');
  const site = await claimSite(dir, { log });
  expect(identify(pid)).toBeUndefined();
  const next = await start(dir);
  expect(next.nats.url).toBe(url);
  await next.stop();
  await site.release();
  expect((await readdir(site.paths.run)).filter((entry) => /^\d/.test(entry))).toEqual([]);
});

test('a program that cannot run is told with what it wrote', async () => {
  const dir = await temporaryFolder();
  const fake = join(dir, 'nats-server');
  await writeFile(fake, '#!/bin/sh\necho "no such cpu" >&2\nexit 3\n', { mode: 0o755 });
  await expect(start(dir, { command: fake })).rejects.toMatchObject({
    code: 'ProcessFailed',
    message: expect.stringMatching(/exit code 3.*no such cpu/s) as string,
  });
  expect(await readFile(join(dir, 'nats', 'nats-server.conf'), 'utf8')).toMatch(/^server_name: "local-/);
});
