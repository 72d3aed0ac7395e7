/**
 * The handler of benchmarks without answers: it counts, and tells the count now and then at the UDP port that the
 * event names. The same in every contender, inline or isolated.
 */
import { createSocket } from 'node:dgram';

interface Counted {
  readonly tell: { readonly port: number; readonly every: number };
}
interface Batch {
  readonly Records: readonly { readonly body: string }[];
}

const socket = createSocket('udp4').unref();
let seen = 0;

export async function handler(event: Counted | Batch): Promise<void> {
  if ('Records' in event) for (const { body } of event.Records) count(JSON.parse(body) as Counted);
  else count(event);
}

function count({ tell: { port, every } }: Counted): void {
  seen += 1;
  if (seen % every === 0) socket.send(String(seen), port, '127.0.0.1');
}
