/** Which messages of one topic are sent. Pure: time is handed in. */
import type { RosMessage, RosValue } from 'atoll/telemetry';
import { changed, holds, valueAt } from './condition.ts';
import type { TopicSettings } from './settings.ts';

export interface Filter {
  /**
   * Once for each message that came, in their order. `message` is asked for only where a filter looks into it. `nowMs` is
   * when it came; a clock that was set back begins anew.
   */
  passes(nowMs: number, message: () => RosMessage): boolean;
}

export function openFilter({ maxHz, everyNth, onChange, condition, atLeastEveryMs }: TopicSettings): Filter {
  const intervalMs = maxHz === undefined ? 0 : 1000 / maxHz;
  let seen = 0;
  let sentMs: number | undefined;
  /** When the next may be sent, by the rate. */
  let dueMs = -Infinity;
  let last: readonly (RosValue | undefined)[] | undefined;

  function isOverdue(nowMs: number): boolean {
    return atLeastEveryMs !== undefined && (sentMs === undefined || nowMs - sentMs >= atLeastEveryMs);
  }

  /** By what came, without a look into it. */
  function comesInTime(nowMs: number): boolean {
    if (sentMs !== undefined && nowMs < sentMs) {
      sentMs = undefined;
      dueMs = -Infinity;
    }
    if (nowMs < dueMs) return false;
    return (seen - 1) % everyNth === 0 || isOverdue(nowMs);
  }

  return {
    passes(nowMs, message) {
      seen += 1;
      if (!comesInTime(nowMs)) return false;
      let values = last;
      if (onChange.length + condition.length > 0) {
        const found = message();
        values = onChange.map(({ path }) => valueAt(found, path));
        const isChanged = onChange.length === 0 || last === undefined || hasChanged(last, values);
        const isAsked = condition.every((one) => holds(one, found));
        if (!(isChanged && isAsked) && !isOverdue(nowMs)) return false;
      }
      last = values;
      // A source that is a little early or late each time still has its whole rate: the next is counted from when this one
      // was due, not from when it came.
      dueMs = (nowMs - dueMs < intervalMs ? dueMs : nowMs) + intervalMs;
      sentMs = nowMs;
      return true;
    },
  };

  function hasChanged(
    before: readonly (RosValue | undefined)[],
    now: readonly (RosValue | undefined)[],
  ): boolean {
    return onChange.some(({ by }, index) => changed(before[index], now[index], by));
  }
}
