/**
 * A NATS account as hosts use it: what it has to hold, and what the host of one function may do in it. The subjects are
 * those of NATS' own API: https://docs.nats.io/reference/reference-protocols/nats_api_reference
 */
import type { FunctionSpec } from '../crds/function.ts';
import { sourceOf } from '../crds/values.ts';
import { bucketOf, partsOf } from './calls/permissions.ts';
import type { NatsLink } from './clients/nats.ts';
import { stopMs } from './config.ts';
import { AtollError, faultOf } from './errors.ts';
import {
  deadStream,
  inboxConsumer,
  inboxStream,
  stateBucket,
  triggerConsumer,
  type Target,
} from './names.ts';
import { deadSubject, ensureDeadStream, ensureInboxStream, inboxSubject, openState } from './streams.ts';

/** As a user's JWT has them. Subscriptions with a queue group are `subject group`. */
export interface Permissions {
  readonly pub: { readonly allow: readonly string[] };
  readonly sub: { readonly allow: readonly string[] };
  /** May answer requests, wherever their answers are to go. */
  readonly resp?: { readonly max: number; readonly ttl: number };
}

/** `_INBOX.<site>.<namespace>_<function>`: nobody else may listen there. */
export const inboxPrefix = (site: string, target: Target): string =>
  `_INBOX.${site}.${inboxConsumer(target)}`;

/** Makes inbox, dead letters and state, which functions may use and not make. Rejects with AtollError. */
export async function prepareAccount(link: NatsLink, site: string): Promise<void> {
  const nc = link.current();
  if (!nc) throw new AtollError('NatsUnavailable', link.state.message);
  try {
    await ensureInboxStream(nc, site);
    await ensureDeadStream(nc, site);
    await openState(nc);
  } catch (error) {
    throw new AtollError('JetStreamUnavailable', faultOf(error).message, { cause: error });
  }
}

/** Pure. Of the host that runs this function and no other. */
export function permissionsOf(site: string, target: Target, spec: FunctionSpec): Permissions {
  const { namespace, name } = target;
  const stateKeys = `$KV.${stateBucket}.*.${namespace}.${name}.>`;
  const stateStream = `KV_${stateBucket}`;
  const pub = [
    // How much of JetStream the account uses: the clients of key-value buckets begin with it.
    '$JS.API.INFO',
    ...[inboxStream, deadStream, stateStream].map((stream) => `$JS.API.STREAM.INFO.${stream}`),
    inboxSubject(site, target, '>'),
    deadSubject(site, target, '>'),
    stateKeys,
    `$JS.API.DIRECT.GET.${stateStream}.${stateKeys}`,
    ...consuming('$JS.API', inboxStream, inboxConsumer(target), inboxSubject(site, target, '>')),
  ];
  const sub = [`${inboxPrefix(site, target)}.>`, stateKeys];
  let answers = false;
  for (const trigger of spec.triggers) {
    const { kind, source } = sourceOf(trigger);
    if (kind === 'nats') {
      const group = source.queue ?? `atoll.${site}.${namespace}.${name}.${trigger.name}`;
      sub.push(source.broadcast ? source.subject : `${source.subject} ${group}`);
      if (source.reply === 'Always') {
        answers = true;
        // To warn of a stream that stores the subject, too.
        pub.push('$JS.API.STREAM.NAMES');
      }
    } else if (kind === 'jetstream') {
      const { stream, domain, subject } = source;
      const api = domain === undefined ? '$JS.API' : `$JS.${domain}.API`;
      pub.push(`${api}.STREAM.INFO.${stream}`);
      pub.push(...consuming(api, stream, triggerConsumer(target, trigger.name), subject));
    }
  }
  pub.push(...calling(spec.permissions));
  for (const { nats } of [spec.onSuccess, spec.onFailure].filter((one) => one !== undefined)) {
    if (nats) pub.push(nats.subject);
  }
  const nanosPerMs = 1e6;
  return {
    pub: { allow: [...new Set(pub)] },
    sub: { allow: [...new Set(sub)] },
    ...(answers && { resp: { max: 1, ttl: stopMs(spec.timeoutSeconds) * 2 * nanosPerMs } }),
  };
}

/** What the handler may reach; the host refuses what is nobody's before it comes to that. */
function* calling(permissions: FunctionSpec['permissions']): Generator<string> {
  for (const list of ['publish', 'call'] as const) {
    for (const { to, pattern } of (permissions?.[list] ?? []).map(partsOf)) {
      if (to === 'nats') yield pattern;
      if (to !== 'kv') continue;
      const { bucket, keys } = bucketOf(pattern);
      const subject = `$KV.${bucket}.${keys}`;
      // Also to create, which has to know of what was deleted.
      yield `$JS.API.DIRECT.GET.KV_${bucket}.${subject}`;
      if (list === 'publish') yield subject;
    }
  }
}

/** A consumer of one's own, and by the filter in the subject nothing but what it is to get. */
function consuming(api: string, stream: string, consumer: string, filter: string | undefined): string[] {
  return [
    `${api}.CONSUMER.CREATE.${stream}.${consumer}${filter === undefined ? '' : `.${filter}`}`,
    `${api}.CONSUMER.INFO.${stream}.${consumer}`,
    `${api}.CONSUMER.DELETE.${stream}.${consumer}`,
    `${api}.CONSUMER.MSG.NEXT.${stream}.${consumer}`,
    `$JS.ACK.${stream}.${consumer}.>`,
    // In a JetStream domain.
    `$JS.ACK.*.*.${stream}.${consumer}.>`,
  ];
}
