import { Kvm } from '@nats-io/kv';
import { expect, test, vi } from 'vitest';
import { openNats } from '../../runtime/clients/nats.ts';
import type { NatsLink } from '../../runtime/clients/nats.ts';
import { holdLease } from '../../runtime/lease.ts';
import type { Lease } from '../../runtime/lease.ts';
import { openLog } from '../../runtime/log.ts';
import { stateBucket } from '../../runtime/streams.ts';
import { closeLater } from '../support/closing.ts';
import { startNats } from '../support/nats.ts';

const ttlMs = 900;

function openLink(url: string): NatsLink {
  const link = openNats({ url }, { name: 'test', site: 'local', log: openLog({ level: 'silent' }) });
  closeLater(() => link.close());
  return link;
}

async function openedLink(url: string): Promise<NatsLink> {
  const link = openLink(url);
  await link.connection();
  return link;
}

interface Contender {
  readonly lease: Lease;
  /** `held`, `lost`, `waiting for <holder>`, `waiting: <code>`, each with the time it happened. */
  readonly heard: { what: string; atMs: number }[];
  until(what: string, nth?: number): Promise<number>;
}

function contend(link: NatsLink, holder: string, options: { key?: string; ttlMs?: number } = {}): Contender {
  const heard: Contender['heard'] = [];
  const hear = (what: string): void => void heard.push({ what, atMs: performance.now() });
  const lease = holdLease(link, options.key ?? 'mqtt.default.echo.in', {
    ttlMs: options.ttlMs ?? ttlMs,
    holder,
    onHeld: () => hear('held'),
    onLost: () => hear('lost'),
    onWaiting: (waiting) =>
      hear('holder' in waiting ? `waiting for ${waiting.holder}` : `waiting: ${waiting.fault.code}`),
  });
  closeLater(() => lease.release());
  return {
    lease,
    heard,
    until: (what, nth = 1) =>
      vi.waitFor(
        () => {
          const found = heard.filter((one) => one.what === what)[nth - 1];
          if (found === undefined) throw new Error(`not "${what}" yet: ${JSON.stringify(heard)}`);
          return found.atMs;
        },
        { timeout: 10_000, interval: 5 },
      ),
  };
}

test('one of two holds the lease, and the other takes it at once when it is released', async () => {
  const server = await startNats();
  const long = { ttlMs: 10 * ttlMs };
  const first = contend(await openedLink(server.url), 'first', long);
  await first.until('held');
  const second = contend(await openedLink(server.url), 'second', long);
  await second.until('waiting for first');
  expect(second.lease.held).toBe(false);

  const releasedAt = performance.now();
  await first.lease.release();
  expect(first.lease.held).toBe(false);
  const heldAt = await second.until('held');
  // It looks by itself once in a third of the ttl.
  expect(heldAt - releasedAt).toBeLessThan(long.ttlMs / 3);
  expect(first.heard.map(({ what }) => what)).toEqual(['held']);
});

test('a holder keeps the lease for many times its ttl', async () => {
  const server = await startNats();
  // Twice the others': a machine that stands still for half a second is not what this is about.
  const patient = { ttlMs: 2 * ttlMs };
  const first = contend(await openedLink(server.url), 'first', patient);
  await first.until('held');
  const second = contend(await openedLink(server.url), 'second', patient);
  const third = contend(await openedLink(server.url), 'third', { key: 'mqtt.default.echo.other' });
  await third.until('held');
  const client = await server.connect();
  const kv = await new Kvm(client).open(stateBucket);
  let renewals = 0;
  for await (const { key } of await kv.watch({ key: 'mqtt.default.echo.in', include: 'updates' })) {
    if (key !== '' && ++renewals === 12) break;
  }
  expect(first.heard.map(({ what }) => what)).toEqual(['held']);
  expect(second.heard.map(({ what }) => what)).toEqual(['waiting for first']);
});

test('the lease of a holder that died is free once its entry has not changed for the ttl', async () => {
  const server = await startNats();
  const dying = await openedLink(server.url);
  const first = contend(dying, 'first');
  await first.until('held');
  const second = contend(await openedLink(server.url), 'second');
  await second.until('waiting for first');

  const diedAt = performance.now();
  await dying.close();
  const heldAt = await second.until('held');
  // The last renewal may be a third of the ttl old when the holder dies, and is seen a third later at most.
  expect(heldAt - diedAt).toBeGreaterThan((ttlMs * 2) / 3 - 50);
  expect(heldAt - diedAt).toBeLessThan(10 * ttlMs);
});

test('a holder that cannot renew stops before anybody else can begin', async () => {
  const server = await startNats();
  const cut = await openedLink(server.url);
  const first = contend(cut, 'first');
  await first.until('held');
  const second = contend(await openedLink(server.url), 'second');
  await second.until('waiting for first');
  await cut.close();
  const lostAt = await first.until('lost');
  const heldAt = await second.until('held');
  expect(heldAt - lostAt).toBeGreaterThan(ttlMs / 6);
});

test('the clock of the other host does not matter: only that its entry stays the same does', async () => {
  const server = await startNats();
  const client = await server.connect();
  const kv = await new Kvm(client).create(stateBucket, { history: 1, markerTTL: 60_000 });
  // Whatever times a foreign entry has, it is renewed every 200 ms.
  let revision = await kv.create('mqtt.default.echo.in', entryOf('foreign'));
  const second = contend(await openedLink(server.url), 'second', { ttlMs: 2 * ttlMs });
  for (let renewals = 0; renewals < 12; renewals++) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    revision = await kv.update('mqtt.default.echo.in', entryOf('foreign'), revision);
  }
  expect(second.lease.held).toBe(false);
  await second.until('held');
});

test('a lease that another took by force is lost, and asked for again', async () => {
  const server = await startNats();
  const first = contend(await openedLink(server.url), 'first');
  await first.until('held');
  const client = await server.connect();
  const kv = await new Kvm(client).open(stateBucket);
  await kv.put('mqtt.default.echo.in', entryOf('thief'));
  await first.until('lost');
  await first.until('waiting for thief');
  await first.until('held', 2);
});

test('without JetStream nobody holds the lease, and the reason is told', async () => {
  const server = await startNats({ jetstream: false });
  const only = contend(openLink(server.url), 'only');
  await only.until('waiting: JetStreamUnavailable');
  expect(only.lease.held).toBe(false);
});

test('a server that comes late, and loses its store later, does not end the holder for good', async () => {
  const server = await startNats();
  await server.stop();
  const only = contend(openLink(server.url), 'only');
  await only.until('waiting: NatsUnavailable');
  await server.restart();
  await only.until('held');
  const client = await server.connect();
  await (await new Kvm(client).open(stateBucket)).destroy();
  await only.until('lost');
  await only.until('held', 2);
});

function entryOf(holder: string): string {
  return JSON.stringify({ holder, ttlMs, time: '2199-01-01T00:00:00.000Z' });
}
