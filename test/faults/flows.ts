/** Three flows of numbered events, sent until their broker says that it has them, and callers beside them. */
import { setTimeout as pause } from 'node:timers/promises';
import { jetstream } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { closeLater, type Closing } from '../support/closing.ts';
import type { Books, FlowName } from './books.ts';

/** Events of one flow that are on their way at once. */
const window = 32;
const answerMs = 5_000;
/** mqtt.js would wait for ever when the broker closes the connection between CONNECT and CONNACK. */
const failsOnce = false;
const againMs = 50;

export interface FlowOptions {
  readonly books: Books;
  /** Of each flow. */
  readonly events: number;
  readonly flowMs: number;
  readonly function: string;
  readonly subject: string;
  readonly topic: string;
  readonly mqttVersion: 4 | 5;
  /** Of the broker, as the sender sees it; asked again after each failure. */
  mqttUrl(): string;
  gatewayUrl(): string;
  nats(): NatsConnection;
  readonly closing?: Closing | undefined;
}

/** Resolves when all of all flows are accepted. */
export async function sendAll(options: FlowOptions): Promise<void> {
  await Promise.all([sendToJetStream(options), sendToMqtt(options), sendToGateway(options)]);
}

async function sendToJetStream(options: FlowOptions): Promise<void> {
  await send('jetstream', options, async (n) => {
    // Without a message id: that JetStream would recognize a repeated one is not what is shown here.
    await jetstream(options.nats(), { timeout: answerMs }).publish(options.subject, numbered(n));
  });
}

async function sendToGateway(options: FlowOptions): Promise<void> {
  await send('invoke', options, async (n) => {
    const url = `${options.gatewayUrl()}/2015-03-31/functions/${options.function}/invocations`;
    const answer = await fetch(url, {
      method: 'POST',
      headers: { 'x-amz-invocation-type': 'Event' },
      body: numbered(n),
      signal: AbortSignal.timeout(answerMs),
    });
    await answer.arrayBuffer();
    if (answer.status !== 202) throw new Error(`status ${answer.status}`);
  });
}

/** QoS 1: a number counts once its PUBACK is there; after a reconnect the client sends again what had none. */
async function sendToMqtt(options: FlowOptions): Promise<void> {
  let connecting: ReturnType<typeof connect> | undefined;
  const connect = async () => {
    const client = await connectAsync(
      options.mqttUrl(),
      {
        protocolVersion: options.mqttVersion,
        connectTimeout: answerMs,
        reconnectPeriod: 0,
        keepalive: 5,
      },
      failsOnce,
    );
    const lost = Promise.withResolvers<never>();
    lost.promise.catch(() => {});
    client.on('error', () => {});
    client.on('close', () => {
      connecting = undefined;
      lost.reject(new Error('the connection was lost'));
    });
    closeLater(async () => void client.end(true), options.closing);
    return { client, lost: lost.promise };
  };
  await send('mqtt', options, async (n) => {
    connecting ??= connect().catch((error: unknown) => {
      connecting = undefined;
      throw error;
    });
    const { client, lost } = await connecting;
    await Promise.race([client.publishAsync(options.topic, numbered(n), { qos: 1 }), lost]);
  });
}

const numbered = (n: number): string => JSON.stringify({ n });

async function send(
  flow: FlowName,
  { books, events, flowMs }: FlowOptions,
  publish: (n: number) => Promise<void>,
): Promise<void> {
  const started = performance.now();
  let next = 0;
  const sender = async (): Promise<void> => {
    for (let n = next++; n < events; n = next++) {
      const early = started + (n / events) * flowMs - performance.now();
      if (early > 1) await pause(early);
      for (;;) {
        try {
          await publish(n);
          break;
        } catch {
          books.resend(flow);
          await pause(againMs);
        }
      }
      books.accept(flow, n);
    }
  };
  await Promise.all(Array.from({ length: window }, sender));
}

export interface Callers {
  /** No more calls; resolves when every one that was made has ended. */
  stop(): Promise<Calls>;
}

export interface Calls {
  answered: number;
  /** Told that it did not work, by status or by the end of the connection. */
  refused: number;
  /** Still waiting when its time was over. */
  hung: number;
}

/** How long a caller waits: twice the function's timeout and what the gateway takes to say so, and a busy machine's share. */
const callerMs = 30_000;
const natsCallerMs = 5_000;
const callEveryMs = 50;

/** Calls by HTTP and by NATS request, one of each every 50 ms, whatever became of those before. */
export function startCallers(options: {
  gatewayUrl(): string;
  nats(): NatsConnection;
  readonly path: string;
  readonly subject: string;
}): Callers {
  const calls: Calls = { answered: 0, refused: 0, hung: 0 };
  const open = new Set<Promise<void>>();

  async function byHttp(): Promise<void> {
    const late = AbortSignal.timeout(callerMs);
    try {
      const answer = await fetch(`${options.gatewayUrl()}${options.path}`, { signal: late });
      await answer.arrayBuffer();
      calls[answer.ok ? 'answered' : 'refused'] += 1;
    } catch {
      calls[late.aborted ? 'hung' : 'refused'] += 1;
    }
  }

  /** NATS' own way is that the client tells its caller when the time is over; more it must not take. */
  async function byNats(): Promise<void> {
    const started = performance.now();
    try {
      const answer = await options.nats().request(options.subject, '{}', { timeout: natsCallerMs });
      const failed = (answer.headers?.get('Nats-Service-Error-Code') ?? '') !== '';
      calls[failed ? 'refused' : 'answered'] += 1;
    } catch {
      calls[performance.now() - started > callerMs ? 'hung' : 'refused'] += 1;
    }
  }

  const call = (made: Promise<void>): void => {
    open.add(made);
    void made.finally(() => open.delete(made));
  };
  const timer = setInterval(() => {
    call(byHttp());
    call(byNats());
  }, callEveryMs);
  return {
    async stop() {
      clearInterval(timer);
      await Promise.all(open);
      return calls;
    },
  };
}
