/** Callers that go on asking while something is changed, and remember every answer. */
import { setTimeout as pause } from 'node:timers/promises';

const turnMs = 10;

export interface Way {
  readonly perSecond: number;
  /** Resolves with what was answered; `n` counts from 0. */
  ask(n: number): Promise<string>;
}

export interface Answered {
  readonly way: string;
  /** ms since the callers began. */
  readonly sentAt: number;
  readonly text: string;
}

export interface Callers {
  readonly answers: readonly Answered[];
  /** Way, moment and error of each that was not answered. */
  readonly failed: readonly string[];
  /** ms since they began. */
  now(): number;
  /** Resolves when every call was answered or failed. */
  stop(): Promise<void>;
}

/** Each way at its own pace by the clock: what a busy machine held up is caught up with. */
export function startCallers(ways: Readonly<Record<string, Way>>): Callers {
  const answers: Answered[] = [];
  const failed: string[] = [];
  const pending = new Set<Promise<void>>();
  const began = performance.now();
  const now = (): number => Math.round(performance.now() - began);
  let running = true;

  function call(way: string, asked: Promise<string>): void {
    const sentAt = now();
    const one = asked
      .then(
        (text) => void answers.push({ way, sentAt, text }),
        (error: unknown) => void failed.push(`${way}, at ${sentAt} ms: ${String(error)}`),
      )
      .finally(() => pending.delete(one));
    pending.add(one);
  }

  async function keepCalling(way: string, { perSecond, ask }: Way): Promise<void> {
    for (let n = 0; running; await pause(turnMs)) {
      for (const due = (now() / 1000) * perSecond; n < due; n++) call(way, ask(n));
    }
  }

  const calling = Promise.all(Object.entries(ways).map(([name, way]) => keepCalling(name, way)));
  return {
    answers,
    failed,
    now,
    async stop() {
      running = false;
      await calling;
      await Promise.all(pending);
    },
  };
}

/** A GET on a connection of its own, as a new caller makes it. Rejects unless the status is 200. */
export async function get(url: string, timeoutMs: number): Promise<string> {
  const response = await fetch(url, {
    headers: { connection: 'close' },
    signal: AbortSignal.timeout(timeoutMs),
  });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${response.status} ${text}`);
  return text;
}
