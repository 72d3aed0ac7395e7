/** What the pods of a function print, as one log: the kept lines in the order of their times, then those to come. */
import type { LogRecord } from '../../runtime/log.ts';
import { ClusterError, resourcePath, type Cluster } from '../cluster/client.ts';
import type { LogQuery } from './backend.ts';
import { parseRecord } from './log-files.ts';
import { hostContainer } from './manifests.ts';
import { podResource, type Pod } from './pods.ts';

export interface PodLogParts {
  readonly cluster: Cluster;
  /** Those of the function that there are now. */
  pods(): readonly Pod[];
  /** Calls back at every change of any pod. Returns the way to stop. */
  watch(changed: () => void): () => void;
}

/** A log that is followed may be silent for long; it is then opened again where it was. */
const silentMs = 10 * 60_000;
const keptSilentMs = 30_000;
/** What waits for a slow reader that follows; beyond it the pods' streams wait. */
const maxWaiting = 10_000;

interface Line {
  /** kubelet's own, with nanoseconds: the same line has the same one whenever it is read. */
  readonly stamp: string;
  readonly record: LogRecord;
}

export async function* readPodLogs(parts: PodLogParts, query: LogQuery): AsyncIterable<LogRecord> {
  const { signal } = query;
  const fits = ({ record }: Line): boolean =>
    (query.since === undefined || Date.parse(record.time) >= query.since) &&
    (query.requestId === undefined || record.requestId === query.requestId);
  /** By uid of the pod: its last line that was given. What follows is read from there. */
  const last = new Map<string, string>();
  if (query.follow) query.onFollowing?.();

  const kept: Line[] = [];
  for await (const { pod, line } of mergeByTime(
    parts.pods().map((pod) => keptLines(parts.cluster, pod, query)),
  )) {
    last.set(pod.metadata.uid, line.stamp);
    if (!fits(line)) continue;
    if (query.limit === undefined) yield line.record;
    else {
      kept.push(line);
      if (kept.length > query.limit) kept.shift();
    }
  }
  for (const { record } of kept) yield record;
  if (query.follow) for await (const line of followed(parts, last, signal)) if (fits(line)) yield line.record;
}

// What is kept

interface PodLine {
  readonly pod: Pod;
  readonly line: Line;
}

/** Of the container that ran before, too: what it said last is what one looks for. */
async function* keptLines(cluster: Cluster, pod: Pod, { since, signal }: LogQuery): AsyncIterable<PodLine> {
  const status = pod.status.containerStatuses?.find(({ name }) => name === hostContainer);
  for (const previous of (status?.restartCount ?? 0) > 0 ? [true, false] : [false]) {
    try {
      for await (const text of cluster.lines(logPath(pod), {
        query: {
          container: hostContainer,
          timestamps: true,
          ...(previous && { previous }),
          ...(since !== undefined && { sinceTime: wholeSeconds(since) }),
        },
        silentMs: keptSilentMs,
        ...(signal && { signal }),
      })) {
        const line = parse(text);
        if (line) yield { pod, line };
      }
    } catch (error) {
      if (!isNotThere(error) && !signal?.aborted) throw error;
    }
  }
}

/** Each source is in order already. */
async function* mergeByTime(sources: readonly AsyncIterable<PodLine>[]): AsyncIterable<PodLine> {
  const heads: { next: AsyncIterator<PodLine>; value: PodLine }[] = [];
  const pull = async (next: AsyncIterator<PodLine>): Promise<void> => {
    const { value, done } = await next.next();
    if (!done) heads.push({ next, value });
  };
  const iterators = sources.map((source) => source[Symbol.asyncIterator]());
  try {
    await Promise.all(iterators.map(pull));
    while (heads.length > 0) {
      let first = 0;
      for (const [at, head] of heads.entries()) if (isEarlier(head, heads[first]!)) first = at;
      const [{ next, value }] = heads.splice(first, 1) as [(typeof heads)[number]];
      yield value;
      await pull(next);
    }
  } finally {
    for (const iterator of iterators) await iterator.return?.();
  }
}

const isEarlier = (one: { value: PodLine }, other: { value: PodLine }): boolean =>
  one.value.line.stamp < other.value.line.stamp;

// What is to come

async function* followed(
  parts: PodLogParts,
  last: Map<string, string>,
  signal: AbortSignal | undefined,
): AsyncIterable<Line> {
  const ending = new AbortController();
  const either = signal ? AbortSignal.any([signal, ending.signal]) : ending.signal;
  const waiting: Line[] = [];
  const following = new Set<string>();
  let wake = (): void => {};
  let roomAgain = Promise.withResolvers<void>();

  async function follow(pod: Pod): Promise<void> {
    const { uid } = pod.metadata;
    const from = last.get(uid);
    for await (const text of parts.cluster.lines(logPath(pod), {
      // Whole seconds: the lines of the first one come again, and are known by their stamps.
      query: {
        container: hostContainer,
        timestamps: true,
        follow: true,
        ...(from !== undefined && { sinceTime: wholeSeconds(Date.parse(from)) }),
      },
      silentMs,
      signal: either,
    })) {
      const line = parse(text);
      if (!line || line.stamp <= (last.get(uid) ?? '')) continue;
      last.set(uid, line.stamp);
      waiting.push(line);
      wake();
      if (waiting.length >= maxWaiting) await roomAgain.promise;
    }
  }

  /** A stream ends with its container, and when the server wishes; while the pod runs another is opened. */
  function look(): void {
    if (either.aborted) return;
    for (const pod of parts.pods()) {
      const { uid } = pod.metadata;
      const runs = pod.status.containerStatuses?.some(
        ({ name, state }) => name === hostContainer && state?.running,
      );
      if (!runs || following.has(uid)) continue;
      following.add(uid);
      follow(pod)
        .catch(() => pause(either))
        .finally(() => {
          following.delete(uid);
          look();
        });
    }
  }

  const stop = parts.watch(look);
  either.addEventListener('abort', () => wake());
  look();
  try {
    while (!either.aborted) {
      yield* waiting.splice(0);
      roomAgain.resolve();
      roomAgain = Promise.withResolvers();
      if (waiting.length > 0 || either.aborted) continue;
      await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    stop();
    ending.abort();
    roomAgain.resolve();
  }
}

const retryMs = 1_000;

function pause(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, retryMs);
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}

// Lines

/** `2026-01-01T00:00:00.123456789Z {"level":…}` */
function parse(text: string): Line | undefined {
  const space = text.indexOf(' ');
  const stamp = text.slice(0, space);
  const time = Date.parse(stamp);
  if (space < 0 || Number.isNaN(time)) return undefined;
  const line = text.slice(space + 1);
  const record = parseRecord(line) ?? {
    time: new Date(time).toISOString(),
    level: 'INFO',
    source: 'stdout',
    message: line,
  };
  return { stamp: padded(stamp), record };
}

/** Zeros at the end of the fraction are left out: without them texts compare as times do. */
function padded(stamp: string): string {
  const [whole = '', fraction = ''] = stamp.replace(/Z$/, '').split('.');
  return `${whole}.${fraction.padEnd(9, '0')}Z`;
}

const logPath = ({ metadata }: Pod): string =>
  resourcePath(podResource, {
    namespace: metadata.namespace,
    name: metadata.name,
    subresource: 'log',
  });

const wholeSeconds = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}Z`;

/** No such pod any more, or a container that has not begun, or whose lines of before are gone. */
const isNotThere = (error: unknown): boolean =>
  error instanceof ClusterError && (error.status === 404 || error.status === 400);
