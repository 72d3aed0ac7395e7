/** A robot that is a ROS node in Python (test/ros/robot.py says what it publishes and serves), told by JSON lines. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const script = join(import.meta.dirname, '..', '..', 'test', 'ros', 'robot.py');
const startTimeoutMs = 30_000;

export interface SimulatedRobot {
  /** What cmd_vel told it last, m/s and rad/s. */
  readonly speed: { readonly linear: number; readonly angular: number };
  /** `count` further messages of /numbers, each one more than the last; resolves with how many there were in all. */
  numbers(count: number, hz: number): Promise<number>;
  /** How many there were so far. */
  published(): Promise<number>;
  /** Resolves when somebody subscribed to /numbers. */
  matched(): Promise<void>;
  stop(): Promise<void>;
}

type Line = Readonly<Record<string, unknown>>;

/** `withRos`: the program that sets ROS up. */
export async function startSimulatedRobot(withRos: string, env: NodeJS.ProcessEnv): Promise<SimulatedRobot> {
  const child = spawn(withRos, ['python3', script], { env, stdio: ['pipe', 'pipe', 'pipe'] });
  const waiting = new Map<unknown, { resolve(value: unknown): void; reject(error: Error): void }>();
  const ready = Promise.withResolvers<void>();
  let speed = { linear: 0, angular: 0 };
  let errors = '';
  let ending: Error | undefined;
  child.stderr.on('data', (chunk: Buffer) => (errors = `${errors}${chunk.toString()}`.slice(-4000)));
  // What is written to one that has ended is lost; who waits for its answer is told by its end.
  child.stdin.on('error', () => undefined);
  createInterface({ input: child.stdout }).on('line', (text) => {
    if (!text.startsWith('{')) return;
    const line = JSON.parse(text) as Line;
    if (line['event'] === 'ready') ready.resolve();
    if (line['event'] === 'cmd_vel') {
      speed = { linear: Number(line['linear']), angular: Number(line['angular']) };
    }
    const asked = waiting.get(line['id']);
    waiting.delete(line['id']);
    if (line['error'] === undefined) asked?.resolve(line['value']);
    else asked?.reject(new Error(`the simulated robot: ${line['error'] as string}`));
  });
  const ended = once(child, 'close').then(([code, signal]) => {
    ending = new Error(`the simulated robot ended (${signal ?? code})\n${errors}`);
    ready.reject(ending);
    for (const { reject } of waiting.values()) reject(ending);
  });
  const timer = setTimeout(
    () =>
      ready.reject(new Error(`the simulated robot did not start in ${startTimeoutMs / 1000} s\n${errors}`)),
    startTimeoutMs,
  );
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    await ended;
  };
  try {
    await ready.promise;
  } catch (error) {
    await stop();
    throw error;
  } finally {
    clearTimeout(timer);
  }

  let last = 0;
  const ask = async (op: string, values: object = {}): Promise<unknown> => {
    if (ending !== undefined) throw ending;
    const id = (last += 1);
    const answer = Promise.withResolvers<unknown>();
    waiting.set(id, answer);
    child.stdin.write(`${JSON.stringify({ ...values, op, id })}\n`);
    return await answer.promise;
  };
  return {
    get speed() {
      return speed;
    },
    numbers: async (count, hz) => (await ask('numbers', { count, hz })) as number,
    published: async () => ((await ask('state')) as { numbers: number }).numbers,
    matched: async () => void (await ask('matched', { count: 1 })),
    stop,
  };
}
