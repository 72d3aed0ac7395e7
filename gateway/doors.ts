/** Who may come in (CONTRACTS 7; for users: docs/reference/doors.md). Decided here, acted on in start.ts. */
import type { IncomingHttpHeaders } from 'node:http';
import { isIPv4 } from 'node:net';
import { packageAudience } from '../runtime/config.ts';
import type { Access } from './access.ts';
import { type Keys, sameText } from './keys.ts';
import type { Reviews } from './reviews.ts';
import { algorithm, verifySignature } from './signature.ts';

/** What a request asks for, as far as admission goes. */
export type Door =
  /** Health: no key anywhere. */
  | { readonly kind: 'open' }
  /** Invoke, /atoll, metrics. `access`: what somebody with a Kubernetes token needs to be allowed. */
  | { readonly kind: 'control'; readonly access?: Access }
  /** An http trigger, or a path that none serves: both look alike to who has no key. */
  | { readonly kind: 'trigger'; readonly auth?: 'None' | 'Key'; readonly access?: Access }
  /** A package, for the Pod of a function that runs it: with a token that is good for nothing else. */
  | { readonly kind: 'package' };

export interface RequestFacts {
  readonly method: string;
  /** Path and query as received. */
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  /** Asked for only where a signature covers it. */
  body(): Promise<Uint8Array>;
}

export interface DoorPolicy {
  /** Bound to loopback: Host must be a loopback name, and browsers' foreign pages stay out. */
  readonly loopback: boolean;
  /** Control doors need a key, and so do triggers that do not say otherwise. */
  readonly keysAsked: boolean;
  readonly keys: Keys;
  /** In a cluster: tokens of its API server open doors too, as far as their bearers' rights go. */
  readonly reviews?: Reviews;
  /** Origins of pages that may come in, as browsers send them: scheme://host:port. */
  readonly allowedOrigins: ReadonlySet<string>;
}

export type Admission =
  | { readonly admitted: true; readonly keyId?: string; readonly user?: string }
  | { readonly admitted: false; readonly why: 'Host' | 'Origin' | 'Key' | 'Clock'; readonly message: string };

/** `now` in ms since the epoch. Rejects only if the body cannot be read. */
export async function admit(
  facts: RequestFacts,
  door: Door,
  policy: DoorPolicy,
  now: number,
): Promise<Admission> {
  if (policy.loopback) {
    if (!isLoopbackName(facts.headers.host)) return refused.host;
    if (!originMayCome(facts, door, policy.allowedOrigins)) return refused.origin;
  }
  return needsKey(door, policy.keysAsked) ? holdsKey(facts, door, policy, now) : { admitted: true };
}

/** The same words whatever was asked for and whatever exists. */
const refused = {
  host: {
    admitted: false,
    why: 'Host',
    message: 'refused: the Host header must name this machine (localhost, 127.0.0.1 or [::1])',
  },
  origin: {
    admitted: false,
    why: 'Origin',
    message: 'refused: pages of this origin may not call this site',
  },
  key: {
    admitted: false,
    why: 'Key',
    message:
      'refused: a valid key is needed, as "Authorization: Bearer <id>.<secret>" or as AWS Signature Version 4 for the service lambda',
  },
} as const satisfies Record<string, Admission>;

function needsKey(door: Door, keysAsked: boolean): boolean {
  if (door.kind === 'open') return false;
  if (door.kind === 'control' || door.kind === 'package') return keysAsked;
  return (door.auth ?? (keysAsked ? 'Key' : 'None')) === 'Key';
}

async function holdsKey(
  facts: RequestFacts,
  door: Door,
  { keys, reviews }: DoorPolicy,
  now: number,
): Promise<Admission> {
  const authorization = authorizationOf(facts.headers);
  if (authorization.startsWith(`${algorithm} `)) {
    const verdict = await verifySignature(facts, keys, now);
    if (verdict.kind === 'valid') return { admitted: true, keyId: verdict.keyId };
    if (verdict.kind === 'invalid') return refused.key;
    const seconds = Math.round(Math.abs(verdict.byMs) / 1000);
    return {
      admitted: false,
      why: 'Clock',
      message: `refused: signed ${seconds} s ${verdict.byMs < 0 ? 'before' : 'after'} this site's time; set the clock right`,
    };
  }
  const [, token = ''] = /^bearer (\S+)$/i.exec(authorization) ?? [];
  const [, id = '', secret = ''] = /^([^.]+)\.(.+)$/.exec(token) ?? [];
  const key = keys.find(id);
  if (sameText(secret, key.secret) && key.known) return { admitted: true, keyId: id };
  if (reviews === undefined || token === '' || door.kind === 'open') return refused.key;
  if (door.kind === 'package') {
    const user = await reviews.userOf(token, packageAudience);
    return user === undefined ? refused.key : { admitted: true, user: user.username };
  }
  const { access } = door;
  const user = access && (await reviews.userOf(token));
  if (!access || !user || !(await reviews.may(user, access))) return refused.key;
  return { admitted: true, user: user.username };
}

/**
 * The API server's service proxy takes `Authorization` for itself, so what is meant for us behind it has a header of
 * its own. Browsers cannot be made to send either to a foreign site.
 */
function authorizationOf(headers: IncomingHttpHeaders): string {
  const behindProxy = headers['atoll-authorization'];
  return typeof behindProxy === 'string' ? behindProxy : (headers.authorization ?? '');
}

/** localhost, 127.0.0.0/8 or [::1], with any port. Anything else may be a foreign name that was made to point here. */
export function isLoopbackName(host: string | undefined): boolean {
  const name = /^(\[[^\]]+\]|[^:[\]]+)(?::\d{1,5})?$/.exec(host ?? '')?.[1]?.toLowerCase();
  return name !== undefined && (name === '[::1]' || isLoopbackAddress(name));
}

/** As given to --host. */
export function isLoopbackAddress(address: string): boolean {
  return address === 'localhost' || address === '::1' || (isIPv4(address) && address.startsWith('127.'));
}

function originMayCome(facts: RequestFacts, door: Door, allowed: ReadonlySet<string>): boolean {
  const { origin, host } = facts.headers;
  if (origin !== undefined) {
    if (allowed.has(origin)) return true;
    // A page that an http trigger served may call its own site's triggers; it does not get to the control doors.
    return door.kind === 'trigger' && origin === `http://${host}`;
  }
  // Browsers send no Origin with the GET of an <img> or <script>; they say in this header where the page is from.
  const site = facts.headers['sec-fetch-site'];
  if (site === undefined || site === 'same-origin' || site === 'none') return true;
  // A link that a person follows is no attack on a trigger; it is none of the control doors' business.
  return door.kind === 'trigger' && facts.method === 'GET' && facts.headers['sec-fetch-mode'] === 'navigate';
}
