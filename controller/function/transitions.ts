/** What changed between two statuses, as a person would want to be told of it. Pure. */
import type { Condition, FunctionStatus } from '../../crds/function.ts';
import { underWay } from './status.ts';

export interface Transition {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  /** What became of it: `Ready=False`. */
  readonly action: string;
  readonly note: string;
}

/** Conditions that changed for one reason are one transition; one that is as it was is none. */
export function transitionsOf(before: FunctionStatus | undefined, after: FunctionStatus): Transition[] {
  const changed = (after.conditions ?? []).filter((condition) => {
    const earlier = before?.conditions?.find(({ type }) => type === condition.type);
    return earlier?.status !== condition.status || earlier.reason !== condition.reason;
  });
  const groups = new Map<string, Condition[]>();
  for (const condition of changed) {
    // Progressing says what Ready says, and a beginning is no news.
    if (condition.type === 'Progressing' && changed.some(({ type }) => type === 'Ready')) continue;
    const group = groups.get(condition.reason) ?? [];
    groups.set(condition.reason, [...group, condition]);
  }
  // The first speaks for the others: Ready where it is among them, so that the same comes in the same words again.
  return [...groups].map(([reason, [first, ...others]]) => ({
    type: [first!, ...others].some((one) => isWrong(one)) ? 'Warning' : 'Normal',
    reason,
    action: `${first!.type}=${first!.status}`,
    note: first!.message,
  }));
}

function isWrong({ type, status, reason }: Condition): boolean {
  return type !== 'Progressing' && status !== 'True' && !underWay.has(reason) && reason !== 'ScaledToZero';
}
