/** Broker state of what is gone is forgotten (CONTRACTS 4.14): at each change of a Function, and every 5 minutes. */
import { forgetMqtt, mqttClientId } from '../../runtime/clients/mqtt.ts';
import type { MqttSettings } from '../../runtime/config.ts';
import { faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { forget, forgetSessionKey, graceMs, type Living, type Swept } from '../../runtime/triggers/forget.ts';
import { UnreadableObjectError, type Store } from '../stores/store.ts';

const sweepMs = 5 * 60_000;
/** What a full disk kept is settled up to the oldest event that is not; that one is handed out again within its lease. */
const lingeringMs = 10_000;
/** Changes come in groups: `faas apply -f FOLDER`. */
const settleMs = 1_000;

type ForgetParts = Parameters<typeof forget>[1];

export interface SweepOptions extends Pick<
  ForgetParts,
  'link' | 'deadLetters' | 'site' | 'owner' | 'graceMs'
> {
  readonly store: Pick<Store, 'get' | 'keys' | 'watch'>;
  /** Where the sessions of mqtt triggers are. */
  readonly mqtt?: MqttSettings;
  readonly log: Log;
  readonly settleMs?: number;
}

export interface Sweep {
  /** Resolves when the one under way is over. */
  stop(): Promise<void>;
}

export function startSweep(options: SweepOptions): Sweep {
  const { store, link, log } = options;
  let soon: NodeJS.Timeout | undefined;
  let later: NodeJS.Timeout | undefined;
  let again: NodeJS.Timeout | undefined;
  let sweeping: Promise<void> = Promise.resolve();
  let stopped = false;

  function sweepSoon(): void {
    if (stopped) return;
    soon ??= setTimeout(() => {
      soon = undefined;
      sweeping = sweeping.then(sweep).catch((error: unknown) => {
        log.warn({ error: faultOf(error).message }, 'the sweep failed; it is done again later');
      });
    }, options.settleMs ?? settleMs);
  }

  async function sweep(): Promise<void> {
    if (stopped || !link.current()) return;
    const living = await livingOf(store);
    if (living === undefined) return log.warn('no sweep while a Function cannot be read');
    const swept = await forget(living, options);
    if (swept.lingering > 0 && !stopped) {
      clearTimeout(again);
      again = setTimeout(sweepSoon, lingeringMs);
    }
    await forgetSessions(swept, options);
  }

  function changed(): void {
    sweepSoon();
    // What a deleted Function wrote in its last minute is too young for the first.
    clearTimeout(later);
    later = setTimeout(sweepSoon, (options.graceMs ?? graceMs) + (options.settleMs ?? settleMs));
  }

  const stopWatching = store.watch(changed);
  const stopListening = link.onState(({ connected }) => {
    if (connected) sweepSoon();
  });
  const timer = setInterval(sweepSoon, sweepMs);
  // What was deleted while nobody watched; without any Function nothing else would ask for it.
  sweepSoon();
  return {
    async stop() {
      stopped = true;
      stopWatching();
      stopListening();
      clearInterval(timer);
      clearTimeout(soon);
      clearTimeout(later);
      clearTimeout(again);
      await sweeping;
    },
  };
}

/**
 * Undefined when one that is stored cannot be read: its events must not be taken for those of a deleted Function.
 * So each key is asked for, since `list` leaves such a one out.
 */
async function livingOf(store: SweepOptions['store']): Promise<Living[] | undefined> {
  const living: Living[] = [];
  for (const key of await store.keys()) {
    const object = await store.get(key).catch((error: unknown) => {
      if (error instanceof UnreadableObjectError) return 'unreadable' as const;
      throw error;
    });
    if (object === 'unreadable') return undefined;
    if (!object) continue;
    const { namespace, name, uid } = object.metadata;
    living.push({ namespace, name, uid, triggers: object.spec.triggers.map((trigger) => trigger.name) });
  }
  return living;
}

async function forgetSessions(
  { mqttSessions }: Swept,
  { link, mqtt, site, log }: SweepOptions,
): Promise<void> {
  if (!mqtt) return;
  for (const session of mqttSessions) {
    const { clientId, version } = (session.value ?? {}) as { clientId?: unknown; version?: unknown };
    const [, namespace = '', name = '', trigger = ''] = session.key.split('.');
    const ours = mqttClientId(site, { namespace, name }, trigger);
    // Another site may share the broker and the bucket: its sessions are its own.
    if (clientId !== ours) continue;
    await forgetMqtt(mqtt, ours, version === 5 ? 5 : 4);
    await forgetSessionKey(link, session);
    log.info({ clientId: ours }, 'forgot the MQTT session of a deleted trigger');
  }
}
