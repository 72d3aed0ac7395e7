/** Events that a trigger lost before they were a function's: said in its condition, the log and the metrics. */
import type { Log } from './log.ts';
import type { FunctionMetrics } from './metrics.ts';

export interface Losses {
  /** The buffer was full: one event is gone. */
  dropped(trigger: string, subject: string): void;
  /** The server cut the host off for reading too slowly: what was on its way is gone, nobody knows how much. */
  cutOff(trigger: string, why: string): void;
  /** For the trigger's condition; undefined: nothing was lost. */
  message(trigger: string): string | undefined;
  /** The trigger is gone. */
  forget(trigger: string): void;
}

/** A flood of losses is told at once, and then so often. */
const tellMs = 1_000;

interface Lost {
  dropped: number;
  /** Of them, not in the log yet. */
  untold: number;
  subject: string;
  cutOffs: number;
  why: string;
  /** The last one's, ms since the epoch. */
  timeMs: number;
  timer: NodeJS.Timeout | undefined;
}

export function openLosses(parts: {
  readonly log: Log;
  readonly metrics: FunctionMetrics;
  /** `message` says something else now. */
  changed(): void;
}): Losses {
  const { log, metrics, changed } = parts;
  const losses = new Map<string, Lost>();

  function lostBy(trigger: string): Lost {
    let lost = losses.get(trigger);
    if (lost === undefined) {
      lost = { dropped: 0, untold: 0, subject: '', cutOffs: 0, why: '', timeMs: 0, timer: undefined };
      losses.set(trigger, lost);
    }
    lost.timeMs = Date.now();
    return lost;
  }

  function tellDropped(trigger: string, lost: Lost): void {
    const { untold: events, subject } = lost;
    lost.untold = 0;
    lost.timer = setTimeout(() => {
      lost.timer = undefined;
      if (lost.untold > 0) tellDropped(trigger, lost);
    }, tellMs).unref();
    log.error(
      { trigger, source: 'platform', subject, reason: 'Overflow', events },
      'buffer full: events dropped',
    );
    changed();
  }

  return {
    dropped(trigger, subject) {
      metrics.deadLettered(trigger, 'Overflow');
      const lost = lostBy(trigger);
      lost.dropped += 1;
      lost.untold += 1;
      lost.subject = subject;
      if (lost.timer === undefined) tellDropped(trigger, lost);
    },
    cutOff(trigger, why) {
      metrics.cutOff(trigger);
      const lost = lostBy(trigger);
      lost.cutOffs += 1;
      lost.why = why;
      log.error(
        { trigger, source: 'platform', reason: 'SlowConsumer', error: why },
        'cut off by the server for reading too slowly: events on their way are lost',
      );
      changed();
    },
    message(trigger) {
      const lost = losses.get(trigger);
      if (lost === undefined) return undefined;
      const { dropped, cutOffs, why } = lost;
      const told = [
        ...(dropped > 0 ? [`${dropped} events dropped since its buffer was full`] : []),
        ...(cutOffs > 0 ? [`cut off ${times(cutOffs)} as a slow consumer (${why}), events lost`] : []),
      ];
      return `${told.join('; ')}; last at ${new Date(lost.timeMs).toISOString()}`;
    },
    forget(trigger) {
      clearTimeout(losses.get(trigger)?.timer);
      losses.delete(trigger);
    },
  };
}

const times = (count: number): string => (count === 1 ? 'once' : `${count} times`);
