/** What became of the messages of a topic: `in` = `out` + `filtered` + `dropped` + what is on its way. */

export interface Counts {
  readonly in: number;
  readonly out: number;
  readonly filtered: number;
  readonly dropped: number;
  /** Sent, without headers. */
  readonly bytes: number;
  /** Of those dropped: not of the type that they should be. */
  readonly decodeErrors: number;
  /** From when the robot took it over until it was sent (kept: stored): the last one, and the longest since the last report. */
  readonly lagMs: { readonly last: number; readonly max: number };
  /** Why the last one was dropped. */
  readonly problem?: string;
}

export interface Counter {
  came(count?: number): void;
  sent(bytes: number, lagMs: number): void;
  filtered(count?: number): void;
  dropped(why: string, options?: { undecodable?: boolean; count?: number }): void;
  /** Reading for a report begins a new longest lag. */
  read(options?: { reset: boolean }): Counts;
}

export function openCounter(): Counter {
  const counts = { in: 0, out: 0, filtered: 0, dropped: 0, bytes: 0, decodeErrors: 0 };
  let lagMs = { last: 0, max: 0 };
  let problem: string | undefined;
  return {
    came: (count = 1) => void (counts.in += count),
    filtered: (count = 1) => void (counts.filtered += count),
    sent(bytes, lag) {
      counts.out += 1;
      counts.bytes += bytes;
      // A clock may have been set back meanwhile.
      const last = Math.max(0, Math.round(lag));
      lagMs = { last, max: Math.max(last, lagMs.max) };
    },
    dropped(why, { undecodable = false, count = 1 } = {}) {
      counts.dropped += count;
      if (undecodable) counts.decodeErrors += count;
      problem = why;
    },
    read({ reset } = { reset: false }) {
      const read = { ...counts, lagMs, ...(problem !== undefined && { problem }) };
      if (reset) lagMs = { last: lagMs.last, max: 0 };
      return read;
    },
  };
}

export interface TopicCounts extends Counts {
  readonly topic: string;
}

const metrics = [
  ['telemetry_messages_in_total', 'counter', 'Messages that came from ROS', ({ in: came }: Counts) => came],
  ['telemetry_messages_out_total', 'counter', 'Messages that were sent', ({ out }: Counts) => out],
  [
    'telemetry_messages_filtered_total',
    'counter',
    'Messages that no filter let pass',
    ({ filtered }: Counts) => filtered,
  ],
  [
    'telemetry_messages_dropped_total',
    'counter',
    'Messages that could not be sent',
    ({ dropped }: Counts) => dropped,
  ],
  [
    'telemetry_decode_errors_total',
    'counter',
    'Messages that are not of their type',
    ({ decodeErrors }: Counts) => decodeErrors,
  ],
  ['telemetry_bytes_total', 'counter', 'Bytes of messages that were sent', ({ bytes }: Counts) => bytes],
  [
    'telemetry_lag_seconds',
    'gauge',
    'From ROS until sent, the last message',
    ({ lagMs }: Counts) => lagMs.last / 1000,
  ],
] as const;

/** In Prometheus' text format. */
export function exposition(topics: readonly TopicCounts[]): string {
  const lines = metrics.flatMap(([name, type, help, value]) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    // Names of topics have nothing that would need an escape.
    ...topics.map((counts) => `${name}{topic="${counts.topic}"} ${value(counts)}`),
  ]);
  return `${lines.join('\n')}\n`;
}
