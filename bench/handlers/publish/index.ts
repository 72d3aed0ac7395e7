/** Publishes through the host, so many at a time, and answers when the server has all. */
import { nats } from 'atoll';

const payload = 'x'.repeat(100);

export async function handler({ count, atATime }: { count: number; atATime: number }): Promise<number> {
  for (let sent = 0; sent < count; sent += atATime) {
    await Promise.all(Array.from({ length: atATime }, () => nats.publish('bench.sink', payload)));
  }
  return count;
}
