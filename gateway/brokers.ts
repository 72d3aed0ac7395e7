/** Inbox and dead letters where each namespace has a NATS account of its own: one connection for each that is asked for. */
import type { AccountKeys } from '../controller/broker/account-keys.ts';
import { connectionWithin, openNats, type NatsLink } from '../runtime/clients/nats.ts';
import type { NatsSettings } from '../runtime/config.ts';
import { openDeadLetters, type DeadLetters } from '../runtime/dead-letters.ts';
import { AtollError } from '../runtime/errors.ts';
import { openInbox, type Inbox } from '../runtime/inbox.ts';
import type { Log } from '../runtime/log.ts';

export interface Brokers {
  readonly inbox: Pick<Inbox, 'put'>;
  readonly deadLetters: DeadLetters;
  close(): Promise<void>;
}

interface Broker {
  readonly link: NatsLink;
  readonly inbox: Inbox;
  readonly deadLetters: DeadLetters;
  /** Rejects with AtollError NatsUnavailable. */
  readonly connected: Promise<void>;
}

const connectMs = 5_000;

export function openBrokers(
  keys: AccountKeys,
  nats: Pick<NatsSettings, 'url' | 'tls'>,
  { site, log }: { site: string; log: Log },
): Brokers {
  const brokers = new Map<string, Broker>();

  function open(namespace: string): Broker {
    const creds = keys.administrator(namespace, 'gateway');
    const { url, tls } = nats;
    const link = openNats({ url, ...(tls && { tls }) }, { name: `atoll ${site} gateway`, site, log, creds });
    const broker = {
      link,
      inbox: openInbox(link, { site, log }),
      deadLetters: openDeadLetters(link, { site, log }),
      connected: connect(namespace, link),
    };
    broker.connected.catch(() => {});
    brokers.set(namespace, broker);
    return broker;
  }

  /** A namespace that never had a Function has no account: nobody goes on knocking there. */
  async function connect(namespace: string, link: NatsLink): Promise<void> {
    if (await connectionWithin(link, connectMs)) return;
    const { message } = link.state;
    brokers.delete(namespace);
    await link.close();
    throw new AtollError('NatsUnavailable', `the account of namespace ${namespace}: ${message}`);
  }

  async function of(namespace: string): Promise<Broker> {
    const broker = brokers.get(namespace) ?? open(namespace);
    await broker.connected;
    return broker;
  }

  const letters = async (target: { namespace: string }): Promise<DeadLetters> =>
    (await of(target.namespace)).deadLetters;
  return {
    inbox: {
      async put(target, event, options) {
        const broker = await of(target.namespace).catch((error: unknown) => {
          const message = `the inbox cannot be reached: ${(error as Error).message}`;
          throw new AtollError('InboxUnavailable', message, { cause: error });
        });
        return broker.inbox.put(target, event, options);
      },
    },
    deadLetters: {
      put: async (target, ...rest) => (await letters(target)).put(target, ...rest),
      list: async (target, options) => (await letters(target)).list(target, options),
      show: async (target, seq) => (await letters(target)).show(target, seq),
      redrive: async (target, options) => (await letters(target)).redrive(target, options),
      purge: async (target, seqs) => (await letters(target)).purge(target, seqs),
    },
    async close() {
      await Promise.all([...brokers.values()].map(({ link }) => link.close()));
    },
  };
}
