/**
 * AWS Signature Version 4, verified: the request is signed again as received and the signatures compared.
 * https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
import { createHash } from 'node:crypto';
import { Sha256 } from '@aws-crypto/sha256-js';
import { SignatureV4 } from '@smithy/signature-v4';
import type { RequestFacts } from './doors.ts';
import { type Keys, sameText } from './keys.ts';

export const algorithm = 'AWS4-HMAC-SHA256';
const service = 'lambda';
/** As AWS: a recorded request is worth nothing after this. */
const maxClockSkewMs = 5 * 60_000;
const payloadHashHeader = 'x-amz-content-sha256';

export type Verdict =
  | { kind: 'valid'; keyId: string }
  | { kind: 'invalid' }
  /** Signed with the right secret, but for another time. Only who holds the secret learns this. */
  | { kind: 'skewed'; byMs: number };

interface Claim {
  readonly keyId: string;
  readonly region: string;
  readonly signedHeaders: ReadonlySet<string>;
  readonly signature: string;
  readonly signedAt: Date;
}

/** `now` in ms since the epoch. Reads the body. */
export async function verifySignature(facts: RequestFacts, keys: Keys, now: number): Promise<Verdict> {
  const claim = claimOf(facts);
  if (!claim) return { kind: 'invalid' };

  // Of the body as received, whatever a header claims: UNSIGNED-PAYLOAD is the digest of none.
  const payloadHash = createHash('sha256')
    .update(await facts.body())
    .digest('hex');

  const { secret, known } = keys.find(claim.keyId);
  const expected = await signAgain(facts, claim, payloadHash, secret);
  if (!sameText(expected, claim.signature) || !known) return { kind: 'invalid' };

  const byMs = claim.signedAt.getTime() - now;
  if (Math.abs(byMs) > maxClockSkewMs) return { kind: 'skewed', byMs };
  return { kind: 'valid', keyId: claim.keyId };
}

function claimOf({ headers }: RequestFacts): Claim | undefined {
  const parts =
    /^AWS4-HMAC-SHA256 Credential=([^/, ]+)\/(\d{8})\/([a-z0-9-]{1,64})\/lambda\/aws4_request, ?SignedHeaders=([a-z0-9;_-]+), ?Signature=([0-9a-f]{64})$/.exec(
      headers.authorization ?? '',
    );
  if (!parts) return undefined;
  const [, keyId = '', day, region = '', names = '', signature = ''] = parts;
  const signedHeaders = new Set(names.split(';'));
  const date = headers['x-amz-date'];
  const signedAt = typeof date === 'string' ? dateOf(date) : undefined;
  if (!signedAt || day !== (date as string).slice(0, 8)) return undefined;
  if (!signedHeaders.has('host')) return undefined;
  for (const name of signedHeaders) if (headers[name] === undefined) return undefined;
  // The date, and what changes what is asked for (X-Amz-Invocation-Type): somebody on the way must not be able to add one.
  for (const name of Object.keys(headers)) {
    if (name.startsWith('x-amz-') && !signedHeaders.has(name)) return undefined;
  }
  return { keyId, region, signedHeaders, signature, signedAt };
}

/** 20261122T193846Z */
function dateOf(text: string): Date | undefined {
  const parts = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (!parts) return undefined;
  const [, year, month, day, hour, minute, second] = parts;
  const date = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(date.getTime()) ? undefined : date;
}

async function signAgain(
  facts: RequestFacts,
  claim: Claim,
  payloadHash: string,
  secret: string,
): Promise<string> {
  const headers: Record<string, string> = {};
  for (const name of claim.signedHeaders) {
    const value = facts.headers[name];
    headers[name] = Array.isArray(value) ? value.join(',') : (value ?? '');
  }
  // The signer takes the digest from here instead of hashing again; it counts as a header only if it was signed.
  headers[payloadHashHeader] = payloadHash;
  const { path, query } = partsOf(facts.url);
  const signer = new SignatureV4({
    credentials: { accessKeyId: claim.keyId, secretAccessKey: secret },
    region: claim.region,
    service,
    sha256: Sha256,
    applyChecksum: false,
  });
  const signed = await signer.sign(
    { method: facts.method, protocol: 'http:', hostname: '', path, query, headers },
    {
      signingDate: claim.signedAt,
      signableHeaders: new Set(claim.signedHeaders),
      unsignableHeaders: new Set([payloadHashHeader]),
    },
  );
  return /Signature=([0-9a-f]+)$/.exec(signed.headers['authorization'] ?? '')?.[1] ?? '';
}

function partsOf(url: string): { path: string; query: Record<string, string[]> } {
  const [path = '', ...rest] = url.split('?');
  const query = Object.create(null) as Record<string, string[]>;
  for (const pair of rest.join('?').split('&')) {
    if (pair === '') continue;
    const [name = '', ...value] = pair.split('=');
    (query[decoded(name)] ??= []).push(decoded(value.join('=')));
  }
  return { path, query };
}

/** Not URLSearchParams: a plus sign is a plus sign here. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
