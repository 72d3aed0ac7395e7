/**
 * NATS accounts kept as the Functions need them: one for each namespace, told to the server, with the streams of ours in
 * it, and swept. An account stays when its last Function goes: what lies in it is its users'.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { prepareAccount } from '../../runtime/account.ts';
import { openNats, type NatsLink } from '../../runtime/clients/nats.ts';
import type { NatsSettings } from '../../runtime/config.ts';
import { openDeadLetters } from '../../runtime/dead-letters.ts';
import { AtollError, faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import type { OperatorKeys } from './account-keys.ts';
import { startSweep, type SweepOptions } from './sweep.ts';

type Connection = NonNullable<ReturnType<NatsLink['current']>>;

export interface AccountsOptions extends Pick<
  SweepOptions,
  'store' | 'site' | 'owner' | 'settleMs' | 'graceMs'
> {
  readonly keys: OperatorKeys;
  /** Of a server that runs with `keys.serverConfig()`. */
  readonly nats: Pick<NatsSettings, 'url' | 'tls'>;
  readonly log: Log;
}

export interface Accounts {
  /** Resolves when the server knows the namespace's account and our streams are in it; rejects after `stop`. */
  ready(namespace: string): Promise<void>;
  stop(): Promise<void>;
}

interface Account {
  readonly prepared: Promise<void>;
  stop(): Promise<void>;
}

const askMs = 5_000;
const retryMs = 5_000;
/** Streams that somebody deleted come back within this time: functions may not make them. */
const lookMs = 30_000;

export function keepAccounts(options: AccountsOptions): Accounts {
  const { keys, site, store, log } = options;
  const { url, tls } = options.nats;
  const nats = { url, ...(tls && { tls }) };
  const accounts = new Map<string, PromiseWithResolvers<Account>>();
  /** To whom the server that we are connected to was told. */
  const told = new Set<string>();
  const closing = new AbortController();
  const system = openNats(nats, {
    name: `atoll ${site} accounts`,
    site,
    log,
    creds: keys.systemUser('controller'),
  });
  let working: Promise<void> = Promise.resolve();
  let listed = false;
  let again: NodeJS.Timeout | undefined;

  function look(): void {
    working = working.then(work).catch((error: unknown) => {
      if (closing.signal.aborted) return;
      log.warn({ error: faultOf(error).message }, 'NATS was not told of all accounts; it is tried again');
      clearTimeout(again);
      again = setTimeout(look, retryMs);
    });
  }

  async function work(): Promise<void> {
    const nc = system.current();
    if (closing.signal.aborted || !nc) return;
    const wanted = new Set([...(await store.keys()).map(({ namespace }) => namespace), ...accounts.keys()]);
    if (!listed) {
      // Where the last Function went while nobody looked there is something to sweep.
      for (const namespace of await namespacesOf(nc, keys)) wanted.add(namespace);
      listed = true;
    }
    for (const namespace of wanted) {
      if (!told.has(namespace)) await tell(nc, keys.accountClaims(namespace), namespace);
      told.add(namespace);
      const account = accountOf(namespace);
      if (!opened.has(namespace)) account.resolve(open(namespace));
      opened.add(namespace);
    }
  }

  const opened = new Set<string>();
  function accountOf(namespace: string): PromiseWithResolvers<Account> {
    const known = accounts.get(namespace);
    if (known) return known;
    const account = Promise.withResolvers<Account>();
    account.promise.catch(() => {});
    accounts.set(namespace, account);
    return account;
  }

  function open(namespace: string): Account {
    const link = openNats(nats, {
      name: `atoll ${site} controller`,
      site,
      log,
      creds: keys.administrator(namespace, 'controller'),
    });
    const prepared = Promise.withResolvers<void>();
    prepared.promise.catch(() => {});
    let preparing: Promise<void> | undefined;

    /** Tries until the streams are there, or no server. */
    async function prepare(): Promise<void> {
      for (;;) {
        try {
          await prepareAccount(link, site);
          return prepared.resolve();
        } catch (error) {
          if (closing.signal.aborted || !link.state.connected) return;
          log.warn({ namespace, error: faultOf(error).message }, 'an account has not all of its streams yet');
        }
        await pause(retryMs, undefined, { signal: closing.signal, ref: false }).catch(() => {});
      }
    }
    const prepareOnce = (): void => {
      preparing ??= prepare().finally(() => (preparing = undefined));
    };
    const stopListening = link.onState(({ connected }) => {
      if (connected) prepareOnce();
    });
    const timer = setInterval(prepareOnce, lookMs);
    const sweep = startSweep({
      ...options,
      store: {
        get: (key) => store.get(key),
        keys: () => store.keys(namespace),
        watch: (listener) => store.watch((key) => key.namespace === namespace && listener(key)),
      },
      link,
      deadLetters: openDeadLetters(link, { site, log }),
    });
    return {
      prepared: prepared.promise,
      async stop() {
        clearInterval(timer);
        stopListening();
        await sweep.stop();
        await preparing;
        await link.close();
        prepared.reject(new AtollError('NatsUnavailable', 'the controller does not keep accounts any more'));
      },
    };
  }

  const stopWatching = store.watch(({ namespace }) => {
    if (!told.has(namespace)) look();
  });
  const stopListening = system.onState(({ connected }) => {
    if (!connected) return;
    // It may be another server, or one whose disk is new.
    told.clear();
    look();
  });
  return {
    ready: async (namespace) => (await accountOf(namespace).promise).prepared,
    async stop() {
      closing.abort();
      stopWatching();
      stopListening();
      clearTimeout(again);
      await working;
      for (const [namespace, { promise, reject }] of accounts) {
        if (opened.has(namespace)) await (await promise).stop();
        else reject(new AtollError('NatsUnavailable', 'the controller does not keep accounts any more'));
      }
      await system.close();
    },
  };
}

interface Answer {
  readonly data?: unknown;
  readonly error?: { readonly description?: string };
}

async function tell(nc: Connection, claims: string, namespace: string): Promise<void> {
  const { error } = (await nc.request('$SYS.REQ.CLAIMS.UPDATE', claims, { timeout: askMs })).json<Answer>();
  if (error) {
    throw new AtollError(
      'NatsUnavailable',
      `NATS refused the account of namespace ${namespace}: ${error.description ?? 'without a reason'}`,
    );
  }
}

/** Of the accounts that the server keeps, those that are ours: an account's name is its namespace. */
async function namespacesOf(nc: Connection, keys: OperatorKeys): Promise<string[]> {
  const { data } = (await nc.request('$SYS.REQ.CLAIMS.LIST', '', { timeout: askMs })).json<Answer>();
  const namespaces: string[] = [];
  for (const account of Array.isArray(data) ? (data as string[]) : []) {
    const claims = (
      await nc.request(`$SYS.REQ.ACCOUNT.${account}.CLAIMS.LOOKUP`, '', { timeout: askMs })
    ).string();
    const name = nameIn(claims);
    if (name !== undefined && keys.account(name) === account) namespaces.push(name);
  }
  return namespaces;
}

function nameIn(claims: string): string | undefined {
  try {
    const [, payload = ''] = claims.split('.');
    return (JSON.parse(Buffer.from(payload, 'base64url').toString()) as { name?: string }).name;
  } catch {
    return undefined;
  }
}
