/**
 * What one session has taken and not acknowledged yet. Many messages are taken at a time, since each waits for a store;
 * the broker is told in the order in which they came (MQTT 4.6), so one that takes long holds back those behind it.
 */
import type { IPublishPacket } from 'mqtt';

/** Messages being taken at a time; a message beyond waits in the connection, and with it the broker. */
const mostAtATime = 256;
const mostBytesAtATime = 8 * 1024 * 1024;

interface Taking {
  /** Absent with QoS 0, which nobody acknowledges. */
  readonly id: number | undefined;
  readonly bytes: number;
  done: boolean;
}

export class Acknowledgements {
  readonly #repeats: Repeats;
  readonly #send: (bytes: Buffer) => void;
  readonly #taking: Taking[] = [];
  #bytes = 0;
  #scheduled = false;
  #ended = false;
  #waiting: (() => void)[] = [];
  #idle: (() => void)[] = [];

  /** `send` is given whole PUBACK packets. */
  constructor(repeats: Repeats, send: (bytes: Buffer) => void) {
    this.#repeats = repeats;
    this.#send = send;
  }

  /** When `taken` resolves the message is acknowledged, as soon as all before it are. It must not reject. */
  add(packet: IPublishPacket, taken: Promise<void>): void {
    const id = packet.qos === 0 ? undefined : packet.messageId;
    // nats-server repeats over a connection that works; a second PUBACK could meet the id's next message there.
    if (packet.dup && this.#taking.some((taking) => taking.id === id)) return;
    const taking: Taking = { id, bytes: packet.payload.length, done: false };
    this.#taking.push(taking);
    this.#bytes += taking.bytes;
    void taken.then(() => {
      taking.done = true;
      if (this.#scheduled || this.#taking[0]?.done !== true) return;
      this.#scheduled = true;
      // One write for all that are done in this turn.
      setImmediate(() => {
        this.#scheduled = false;
        this.flush();
      });
    });
  }

  /** Calls back when another message may be taken, perhaps at once. */
  whenFree(proceed: () => void): void {
    if (this.#taking.length < mostAtATime && this.#bytes < mostBytesAtATime) proceed();
    else this.#waiting.push(proceed);
  }

  /** Resolves when all that was added is done and acknowledged, or the connection is gone. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#taking.length === 0 || this.#ended) resolve();
      else this.#idle.push(resolve);
    });
  }

  flush(): void {
    if (this.#ended) return;
    let done = 0;
    let bytes = 0;
    const packets: number[] = [];
    while (this.#taking[done]?.done === true) {
      const { id, bytes: size } = this.#taking[done] as Taking;
      done += 1;
      bytes += size;
      if (id === undefined) continue;
      // 3.4: a PUBACK of success ends with the id, in MQTT 5 too (3.4.2.1).
      packets.push(0x40, 2, id >> 8, id & 0xff);
      this.#repeats.acknowledged(id);
    }
    if (done === 0) return;
    this.#taking.splice(0, done);
    this.#bytes -= bytes;
    if (packets.length > 0) this.#send(Buffer.from(packets));
    for (const proceed of this.#waiting.splice(0)) this.whenFree(proceed);
    if (this.#taking.length === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** The connection is gone: what is not acknowledged by now will not be. */
  end(): void {
    this.#ended = true;
    this.#waiting = [];
    for (const resolve of this.#idle.splice(0)) resolve();
  }
}

/**
 * Messages that were taken and could not be acknowledged because the connection ended, so that they are not taken
 * twice: in the same session the broker sends them again, marked as such and under the same id (MQTT 4.4).
 */
export class Repeats {
  readonly #taken = new Map<number, { packet: IPublishPacket; taken: Promise<void> }>();

  /** What became of this message when it came before, or what `take` makes of it now. */
  take(packet: IPublishPacket, take: (packet: IPublishPacket) => Promise<void>): Promise<void> {
    const id = packet.messageId as number;
    const before = packet.dup ? this.#taken.get(id) : undefined;
    if (before && isSame(before.packet, packet)) return before.taken;
    const entry = { packet, taken: take(packet) };
    this.#taken.set(id, entry);
    entry.taken.catch(() => {
      if (this.#taken.get(id) === entry) this.#taken.delete(id);
    });
    return entry.taken;
  }

  acknowledged(id: number): void {
    this.#taken.delete(id);
  }

  /** The broker has forgotten the session: its ids mean nothing now. */
  clear(): void {
    this.#taken.clear();
  }
}

function isSame(one: IPublishPacket, other: IPublishPacket): boolean {
  return one.topic === other.topic && Buffer.from(one.payload).equals(Buffer.from(other.payload));
}
