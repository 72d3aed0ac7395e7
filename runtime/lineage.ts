/**
 * How many functions an event came through (CONTRACTS 4.15). Where Atoll hands an event on it writes `Atoll-Hops`; a
 * handler that calls a function by AWS's SDK hands on the X-Amzn-Trace-Id that it finds, and the count in its Lineage:
 * https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
 */
import { randomBytes } from 'node:crypto';

type Headers = Readonly<Record<string, string>>;

export const hopsHeader = 'Atoll-Hops';
export const traceHeader = 'x-amzn-trace-id';

/** Whoever publishes or calls may write anything into these headers. */
export function hopsOf(headers: Headers): number {
  const hops = Number(headers[hopsHeader] ?? 0);
  const trace = headers[traceHeader];
  return Math.max(hops > 0 ? hops : 0, trace === undefined ? 0 : lineageOf(trace));
}

/**
 * What an invocation hands on: the trace of its event, or a new one, one hop further. Lambda counts per function and
 * stops at the count of one; here the whole chain has one count, so there is one entry, and a foreign one is summed up.
 */
export function nextTraceId(headers: Headers): string {
  const given = headers[traceHeader];
  const root =
    given === undefined ? undefined : /(?:^|;)Root=(1-[\da-f]{8}-[\da-f]{24})(?:;|$)/.exec(given)?.[1];
  const sampled = given === undefined ? undefined : /(?:^|;)Sampled=([01])(?:;|$)/.exec(given)?.[1];
  made += 1;
  const count = made.toString(16).padStart(8, '0').slice(-8);
  return `Root=${root ?? newRoot(count)};Parent=${processPart.slice(0, 8)}${count};Sampled=${sampled ?? '0'};Lineage=00000000:${hopsOf(headers) + 1}`;
}

/** As if the event came from outside. */
export function withoutHops(headers: Headers): Headers {
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => name !== hopsHeader && name !== traceHeader),
  );
}

/** Unique without a random number for each invocation. */
const processPart = randomBytes(8).toString('hex');
let made = 0;

function newRoot(count: string): string {
  const seconds = Math.floor(Date.now() / 1000).toString(16);
  return `1-${seconds}-${processPart}${count}`;
}

/** `Lineage=<hash>:<count>|<hash>:<count>` */
function lineageOf(trace: string): number {
  const entries = /(?:^|;)Lineage=([^;]*)/.exec(trace)?.[1]?.split('|') ?? [];
  return entries.reduce((sum, entry) => sum + Number(/:(\d{1,6})$/.exec(entry)?.[1] ?? 0), 0);
}
