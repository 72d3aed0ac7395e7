/** How much of the disk a stream of telemetry is given: what is wanted of it, or less where the disk is small. */

/** Less than this is no use: then it is an error that there is no room. */
export const leastStreamBytes = 4 * 1024 ** 2;
/** nats-server's "insufficient storage resources available": three quarters of the disk are all it gives away. */
const noRoom = 10047;

/** Asks for `wanted` bytes, for half of that, and so on until `ask` is not refused for want of room; what it made then. */
export async function withRoom<T>(wanted: number, ask: (bytes: number) => Promise<T>): Promise<T> {
  for (let bytes = wanted; ; bytes = Math.floor(bytes / 2)) {
    try {
      return await ask(bytes);
    } catch (error) {
      if ((error as { code?: number }).code !== noRoom || bytes <= leastStreamBytes) throw error;
    }
  }
}
