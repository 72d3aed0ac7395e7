import { createServer } from 'node:net';
import { chmod, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { openNats } from '../../../runtime/clients/nats.ts';
import type { LinkState, NatsLink } from '../../../runtime/clients/nats.ts';
import type { NatsSettings } from '../../../runtime/config.ts';
import { openLog } from '../../../runtime/log.ts';
import { closeLater } from '../../support/closing.ts';
import { temporaryFolder } from '../../support/folder.ts';
import { startNats } from '../../support/nats.ts';

function open(settings: NatsSettings): NatsLink {
  const link = openNats(settings, { name: 'a test', site: 'local', log: openLog({ level: 'silent' }) });
  closeLater(() => link.close());
  return link;
}

function stateOf(link: NatsLink, condition: (state: LinkState) => boolean): Promise<LinkState> {
  return new Promise((resolve) => {
    if (condition(link.state)) return resolve(link.state);
    const stop = link.onState((state) => {
      if (!condition(state)) return;
      stop();
      resolve(state);
    });
  });
}

async function credentials(content: string, mode = 0o600): Promise<string> {
  const file = `${await temporaryFolder()}/nats.json`;
  await writeFile(file, content, { mode });
  await chmod(file, mode);
  return file;
}

const withUser = 'authorization { user: app, password: "s3cret" }';

test('connects with its name and the site’s inbox prefix', async () => {
  const server = await startNats();
  const link = open({ url: server.url });
  const connection = await link.connection();
  expect(link.current()).toBe(connection);
  expect(link.state.connected).toBe(true);
  const answer = await fetch(`${server.monitorUrl}/connz?subs=1`);
  const { connections } = (await answer.json()) as { connections: { name: string }[] };
  expect(connections.map(({ name }) => name)).toEqual(['a test']);
  const client = await server.connect();
  client.subscribe('ask', { callback: (_error, message) => void message.respond(message.reply) });
  await client.flush();
  expect((await connection.request('ask')).string()).toMatch(/^_INBOX\.local\./);
});

test('a server that is away at the start is tried until it appears, and its address is named meanwhile', async () => {
  const server = await startNats();
  await server.stop();
  const link = open({ url: server.url });
  const away = await stateOf(link, ({ message }) => message.includes('cannot be reached'));
  expect(away).toMatchObject({ connected: false, message: expect.stringContaining(server.url) });
  expect(link.current()).toBeUndefined();
  await server.restart();
  expect((await link.connection()).isClosed()).toBe(false);
});

test('the same connection survives a crash of the server, and tells both changes', async () => {
  const server = await startNats();
  const link = open({ url: server.url });
  const connection = await link.connection();
  const seen: boolean[] = [];
  link.onState(({ connected }) => void seen.push(connected));
  await server.kill('SIGKILL');
  await stateOf(link, ({ connected }) => !connected);
  expect(link.current()).toBeUndefined();
  await server.restart();
  await stateOf(link, ({ connected }) => connected);
  expect(link.current()).toBe(connection);
  expect(await link.connection()).toBe(connection);
  expect(seen).toEqual([false, true]);
});

test('a link that is half open is noticed, though nothing closes it', { timeout: 60_000 }, async () => {
  const server = await startNats();
  const link = open({ url: server.url });
  await link.connection();
  await server.pause();
  await stateOf(link, ({ connected }) => !connected);
  server.resume();
  await stateOf(link, ({ connected }) => connected);
});

test('credentials come from the file, and from what it says at the next attempt', async () => {
  const server = await startNats({ config: withUser });
  const file = await credentials('{"user":"app","pass":"wrong"}');
  const link = open({ url: server.url, credentialsFile: file });
  const refused = await stateOf(link, ({ message }) => /authorization/i.test(message));
  expect(refused.connected).toBe(false);
  await writeFile(file, '{"user":"app","pass":"s3cret"}');
  await link.connection();
});

test('no message holds a secret, neither of the file nor of an address', async () => {
  const server = await startNats({ config: withUser });
  const broken = await credentials('{"user":"app","pass":"s3cret"');
  const notJson = open({ url: server.url, credentialsFile: broken });
  const state = await stateOf(notJson, ({ message }) => message.includes(broken));
  expect(state.message).not.toContain('s3cret');
  const inUrl = open({ url: server.url.replace('nats://', 'nats://app:s3cret@') });
  const other = await stateOf(inUrl, ({ message }) => message.includes('cannot be reached'));
  expect(other.message).not.toContain('s3cret');
});

test('a credentials file that everyone can read is refused', async () => {
  const server = await startNats();
  const file = await credentials('{"token":"t"}', 0o644);
  const link = open({ url: server.url, credentialsFile: file });
  const state = await stateOf(link, ({ message }) => message.includes(file));
  expect(state.message).toContain('chmod 600');
});

test('close() ends it while it still tries, and connection() rejects then', async () => {
  // Accepts and never says a word: the handshake is under way when the link is closed.
  const mute = createServer().listen(0, '127.0.0.1');
  closeLater(async () => void mute.close());
  await new Promise((resolve) => mute.once('listening', resolve));
  const { port } = mute.address() as { port: number };
  const link = open({ url: `nats://127.0.0.1:${port}` });
  const waiting = link.connection();
  await new Promise((resolve) => mute.once('connection', resolve));
  await link.close();
  await expect(waiting).rejects.toMatchObject({ code: 'NatsUnavailable' });
  await expect(link.connection()).rejects.toMatchObject({ code: 'NatsUnavailable' });
});

test('close() lets go out what was published just before', async () => {
  const server = await startNats();
  const client = await server.connect();
  const arrived = new Promise<void>((resolve) => client.subscribe('last', { callback: () => resolve() }));
  await client.flush();
  const link = open({ url: server.url });
  (await link.connection()).publish('last');
  await link.close();
  await arrived;
  expect(link.current()).toBeUndefined();
});
