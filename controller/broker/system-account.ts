/** The system account of our own nats-server: by it the server is asked about its links and told what to do. */
import type { NatsConnection } from '@nats-io/transport-node';
import { openNats } from '../../runtime/clients/nats.ts';
import type { NatsSettings } from '../../runtime/config.ts';
import { AtollError } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';

const answerMs = 5_000;

/** One link between two servers, as this one sees it. */
export interface LeafLink {
  readonly id: number;
  /** The other server's own name: `<site>-<instance>`. */
  readonly name: string;
  /** Ours, to which it leads. */
  readonly account: string;
  /** Of the other end. */
  readonly address: string;
  readonly port: number;
  /** What the other end wants to hear. */
  readonly subscriptions: readonly string[];
}

export interface SystemAccount {
  /** Reads its configuration file again. Rejects with ProcessFailed, with the server's reason, when it refuses it. */
  reload(): Promise<void>;
  links(): Promise<LeafLink[]>;
  /** Ends a link; whoever opened it opens it again. */
  cut(link: LeafLink): Promise<void>;
  close(): Promise<void>;
}

export function openSystemAccount(options: {
  settings: NatsSettings;
  site: string;
  log: Log;
}): SystemAccount {
  const { settings, site, log } = options;
  const link = openNats(settings, { name: `atoll ${site} system`, site, log });

  async function ask<T>(what: string, question: object = {}): Promise<T> {
    const connection: NatsConnection | undefined = link.current();
    if (connection === undefined) throw new AtollError('NatsUnavailable', link.state.message);
    const subject = `$SYS.REQ.SERVER.${connection.info?.server_id ?? ''}.${what}`;
    const answer = await connection
      .request(subject, JSON.stringify(question), { timeout: answerMs })
      .catch((error: unknown) => {
        throw new AtollError('NatsUnavailable', `nats-server did not answer ${what}: ${String(error)}`);
      });
    const { data, error } = answer.json<{ data?: T; error?: { description?: string } }>();
    if (error !== undefined) {
      throw new AtollError('ProcessFailed', `nats-server refused ${what}: ${error.description ?? ''}`);
    }
    return data as T;
  }

  return {
    async reload() {
      await link.connection();
      await ask('RELOAD');
    },
    async links() {
      type Leaf = Omit<LeafLink, 'address' | 'subscriptions'> & { ip: string; subscriptions_list?: string[] };
      const { leafs } = await ask<{ leafs?: Leaf[] }>('LEAFZ', { subscriptions: true });
      return (leafs ?? []).map(({ id, name, account, ip, port, subscriptions_list: subscriptions = [] }) => ({
        id,
        name,
        account,
        address: ip,
        port,
        subscriptions,
      }));
    },
    async cut({ id }) {
      await ask('KICK', { cid: id });
    },
    close: () => link.close(),
  };
}
