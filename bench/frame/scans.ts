/**
 * Scans from one publisher, a process of its own whose CPU counts for nobody. ROS holds no publisher back, so rounds do: at most
 * `backlog` scans are on their way, far fewer than the middleware and the trigger keep, so that none may be lost; or
 * they come at a pace that all can take.
 */
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { createRequire } from 'node:module';
import type { Bench } from './bench.ts';
import type { Contender } from './rounds.ts';

/** Handlers tell their count at each such step; what a round sends is a multiple of it. */
export const tellEvery = 20;
/** Of queues, the same in all contenders. */
export const depth = 1_000;
export const backlog = 100;

export interface ScanTopic {
  readonly topic: string;
  /** Where the scans come out again; absent: a handler tells how many it has seen. */
  readonly subject?: string;
}

export interface ScanRound {
  readonly topic: string;
  readonly count: number;
  readonly backlog: number;
  /** Scans a second; absent: as fast as the backlog allows. */
  readonly hz?: number;
}

export interface Scans {
  readonly pid: number;
  contender(name: string, topic: string, pid: number, round: Omit<ScanRound, 'topic' | 'backlog'>): Contender;
}

/** Resolves when every topic has its subscriber. `login`: a file of JSON with user and pass, where NATS asks for them. */
export async function openScans(
  { program }: Bench,
  topics: readonly ScanTopic[],
  natsUrl?: string,
  login?: string,
): Promise<Scans> {
  const file = join(import.meta.dirname, 'scan-publisher.ts');
  const { child, pid } = await program(process.execPath, [
    file,
    JSON.stringify(topics),
    ...[natsUrl, login].filter((given) => given !== undefined),
  ]);
  const answers = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  return {
    pid,
    contender: (name, topic, contenderPid, { count, ...more }) => ({
      name,
      pids: () => [contenderPid],
      async round() {
        child.stdin!.write(`${JSON.stringify({ topic, count, backlog, ...more } satisfies ScanRound)}\n`);
        const { value, done } = await answers.next();
        if (done === true)
          throw new Error(`the publisher ended in a round of ${name}; what it said is above`);
        return { events: count, seconds: Number(value) };
      },
    }),
  };
}

export function rosNote(env: NodeJS.ProcessEnv): string {
  const manifest = join(env['ATOLL_RCLNODEJS'] ?? '', 'package.json');
  const { version } = createRequire(import.meta.url)(manifest) as { version: string };
  return `ROS 2 ${env['ROS_DISTRO']}, ${env['RMW_IMPLEMENTATION']} by UDP, rclnodejs ${version}`;
}
