import { randomBytes } from 'node:crypto';
import { jetstreamManager } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import { describe, expect, test } from 'vitest';
import { join } from 'node:path';
import { keptTelemetry, limitTelemetry } from '../../../controller/broker/telemetry-room.ts';
import { missingDisk, startDisk } from '../../support/disk.ts';
import { startNats } from '../../support/nats.ts';
import { missing } from '../../support/requirement.ts';

const mebibyte = 1024 ** 2;
const managerOf = (connection: NatsConnection) => jetstreamManager(connection, { checkAPI: false });

describe.skipIf(await missing('nats-server'))("the hub's room for telemetry", () => {
  test('is given to a stream that had none; the oldest give way to the newest and are counted', async () => {
    const nats = await startNats();
    const connection = await nats.connect();
    const manager = await managerOf(connection);
    expect(await keptTelemetry(manager)).toBeUndefined();
    await manager.streams.add({ name: 'TELEMETRY', subjects: ['kept'] });
    const store = (): Promise<unknown> => connection.request('kept', randomBytes(mebibyte));
    for (let count = 0; count < 10; count += 1) await store();
    expect(await keptTelemetry(manager)).toMatchObject({ messages: 10, maxBytes: -1, dropped: 0 });
    expect(await limitTelemetry(manager, 4 * mebibyte)).toBe(4 * mebibyte);
    expect(await keptTelemetry(manager)).toMatchObject({
      messages: 3,
      maxBytes: 4 * mebibyte,
      dropped: 7,
    });
    await store();
    const { bytes, dropped } = (await keptTelemetry(manager))!;
    expect(bytes).toBeLessThanOrEqual(4 * mebibyte);
    expect(dropped).toBe(8);
    // As it was set already, and more.
    expect(await limitTelemetry(manager, 4 * mebibyte)).toBe(4 * mebibyte);
    expect(await limitTelemetry(manager, 64 * mebibyte)).toBe(64 * mebibyte);
  });

  test.skipIf(missingDisk())(
    'is a half, or a half of that, where the disk has less, also after a start on a disk that others filled',
    async () => {
      const disk = await startDisk({ megabytes: 64 });
      const storeDir = join(disk.path, 'store');
      const nats = await startNats({ storeDir });
      const manager = await managerOf(await nats.connect());
      await manager.streams.add({ name: 'TELEMETRY', subjects: ['kept'] });
      // Three quarters of the disk are 48 MiB.
      expect(await limitTelemetry(manager, 160 * mebibyte)).toBe(40 * mebibyte);
      expect(await limitTelemetry(manager, 160 * mebibyte)).toBe(40 * mebibyte);
      await nats.stop();
      disk.fill();
      disk.free();
      const again = await startNats({ storeDir });
      const later = await managerOf(await again.connect());
      expect(await limitTelemetry(later, 160 * mebibyte)).toBe(40 * mebibyte);
      expect(await keptTelemetry(later)).toMatchObject({ maxBytes: 40 * mebibyte });
    },
  );
});
