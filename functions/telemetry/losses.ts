/** Messages that came to the robot's ROS process and were not handed over: they are in their topics' numbers all the same. */
import type { RosTopicCounts } from 'atoll';
import type { Topic, Topics } from './topics.ts';

export interface LossesOptions {
  readonly topics: Topics;
  /** When this process of the function began, ms since the epoch. */
  readonly startedMs: number;
  tell(topic: Topic, problem: string): void;
}

type Lost = Pick<RosTopicCounts, 'replaced' | 'tooLarge'>;

const tooLargeWhy = 'it has more than 15 MiB, which is the most that a handler is handed';
const replacedWhy =
  'newer ones came while it waited for the function, more than keepLast of its ros trigger holds';

/** Takes what `ros.topics()` gives, again and again; counts what is new in it. */
export function openLosses({
  topics,
  startedMs,
  tell,
}: LossesOptions): (found: readonly RosTopicCounts[]) => void {
  const before = new Map<string, Lost>();

  return (found) => {
    for (const counts of found) {
      const key = `${counts.trigger} ${counts.topic}`;
      // What a trigger older than this process had lost until now was counted by the process before it.
      const last = before.get(key) ?? (counts.since < startedMs ? counts : { replaced: 0, tooLarge: 0 });
      before.set(key, counts);
      const replaced = grown(last.replaced, counts.replaced);
      const tooLarge = grown(last.tooLarge, counts.tooLarge);
      if (replaced + tooLarge > 0) count(topics.of(counts.topic, counts.type ?? ''), { replaced, tooLarge });
    }
  };

  function count(topic: Topic, { replaced, tooLarge }: Lost): void {
    const { settings, counter } = topic;
    counter.came(replaced + tooLarge);
    if (settings === undefined) return counter.filtered(replaced + tooLarge);
    if (replaced > 0) {
      counter.dropped(replacedWhy, { count: replaced });
      // Of the others the newest is all that is wanted.
      if (settings.class === 'lossless' || settings.class === 'ring') tell(topic, replacedWhy);
    }
    if (tooLarge > 0) {
      counter.dropped(tooLargeWhy, { count: tooLarge });
      tell(topic, tooLargeWhy);
    }
  }
}

/** A subscription that was made anew counts from 0. */
const grown = (before: number, now: number): number => (now >= before ? now - before : now);
