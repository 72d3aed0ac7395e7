/**
 * The frame of every benchmark: the contenders take turns round by round, in an order that rotates, so that what else
 * the machine does hits all of them alike. The first is the baseline, the second an identical copy of it: a
 * difference within the copy's spread is no difference.
 */
import { availableParallelism } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { only, rounds, warmUps } from './options.ts';
import { cpuOf, machineCpuSeconds } from './processes.ts';

/** Logs and acknowledgements of a round are written within it; they belong to the round. */
const settleMs = 150;

export interface Contender {
  readonly name: string;
  /** Whose CPU counts, descendants included. Absent: CPU is not compared. */
  readonly pids?: () => readonly number[];
  readonly round: () => Promise<Round>;
}

export interface Round {
  /** What was handled; with `seconds` it makes the rate. */
  readonly events?: number;
  readonly seconds?: number;
  /** By name, the unit last. Lower is better, except where the name ends in `/s`. */
  readonly figures?: Readonly<Record<string, number>>;
}

export interface Question {
  /** Of the file. */
  readonly name: string;
  /** What is asked, and how much one round does. */
  readonly text: string;
  /** Singular. */
  readonly event: string;
  readonly contenders: readonly Contender[];
  /** What else works in a round, by name: brokers. The driver is this process. */
  readonly parts?: Readonly<Record<string, number>>;
  /** Before each set of rounds, not measured. */
  readonly prepare?: () => Promise<void>;
  readonly cleanUp?: () => Promise<void>;
}

/** Median, smallest and greatest. */
export interface Spread {
  readonly median: number;
  readonly from: number;
  readonly to: number;
}

export interface Row {
  readonly name: string;
  readonly figures: Readonly<Record<string, { readonly value: Spread; readonly ratio: Spread }>>;
  /** Cores kept busy, by part; the contender itself, its busiest process, and what is not ours. */
  readonly busy: Readonly<Record<string, number>>;
}

export interface Answer {
  readonly name: string;
  readonly text: string;
  readonly rounds: number;
  readonly rows: readonly Row[];
}

type Measured = { figures: Record<string, number>; busy: Record<string, number> };

export async function compare(question: Question): Promise<Answer> {
  const contenders = question.contenders.filter(({ name }) => only === undefined || name === only);
  const measured = contenders.map((): Measured[] => []);
  for (let round = -warmUps; round < rounds; round++) {
    await question.prepare?.();
    for (let turn = 0; turn < contenders.length; turn++) {
      const index = (((round + turn) % contenders.length) + contenders.length) % contenders.length;
      const one = await measure(contenders[index] as Contender, question);
      if (round >= 0) measured[index]?.push(one);
    }
    await question.cleanUp?.();
    process.stderr.write(`\r${question.name}: ${round < 0 ? 'warm-up' : `round ${round + 1} of ${rounds}`} `);
  }
  process.stderr.write('\n');
  const rows = contenders.map(({ name }, index) => rowOf(name, measured[index] ?? [], measured[0] ?? []));
  return { name: question.name, text: question.text, rounds, rows };
}

async function measure(contender: Contender, { event, parts = {} }: Question): Promise<Measured> {
  const roots = contender.pids?.() ?? [];
  const before = snapshot(roots, parts);
  const round = await contender.round();
  const after = snapshot(contender.pids?.() ?? [], parts);
  await pause(settleMs);
  const settled = cpuOf(contender.pids?.() ?? []);
  const sum = (used: Iterable<number>): number => [...used].reduce((total, seconds) => total + seconds, 0);
  const spent = (now: ReadonlyMap<number, number>): number[] =>
    [...now].map(([pid, seconds]) => seconds - (before.own.get(pid) ?? 0));
  const figures: Record<string, number> = { ...round.figures };
  if (round.events !== undefined) {
    if (round.seconds !== undefined) figures[`${event}s/s`] = round.events / round.seconds;
    if (roots.length > 0) figures[`CPU µs/${event}`] = (sum(spent(settled)) / round.events) * 1e6;
  }
  const wall = (after.at - before.at) / 1000;
  const own = sum(spent(after.own));
  const busy: Record<string, number> = { driver: (after.driver - before.driver) / wall };
  for (const name of Object.keys(parts)) {
    busy[name] = ((after.parts[name] ?? 0) - (before.parts[name] ?? 0)) / wall;
  }
  const known = sum(Object.values(busy)) + own / wall;
  if (roots.length > 0) {
    busy['contender'] = own / wall;
    busy['its busiest process'] = Math.max(0, ...spent(after.own)) / wall;
  }
  busy['not ours'] = Math.max(0, (after.machine - before.machine) / wall - known);
  return { figures, busy };
}

function snapshot(roots: readonly number[], parts: Readonly<Record<string, number>>) {
  const { user, system } = process.cpuUsage();
  const sum = (pid: number): number => [...cpuOf([pid]).values()].reduce((a, b) => a + b, 0);
  return {
    at: performance.now(),
    own: cpuOf(roots),
    driver: (user + system) / 1e6,
    parts: Object.fromEntries(Object.entries(parts).map(([name, pid]) => [name, sum(pid)])),
    machine: machineCpuSeconds(),
  };
}

function rowOf(name: string, own: readonly Measured[], baseline: readonly Measured[]): Row {
  const figures: Record<string, { value: Spread; ratio: Spread }> = {};
  for (const figure of Object.keys(own[0]?.figures ?? {})) {
    const values = own.map((one) => one.figures[figure] ?? NaN);
    const ratios = values.map((value, round) => value / (baseline[round]?.figures[figure] ?? NaN));
    figures[figure] = { value: spreadOf(values), ratio: spreadOf(ratios) };
  }
  const busy: Record<string, number> = {};
  for (const part of Object.keys(own[0]?.busy ?? {})) {
    busy[part] = spreadOf(own.map((one) => one.busy[part] ?? NaN)).median;
  }
  return { name, figures, busy };
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: percentile(sorted, 0.5), from: sorted[0] ?? NaN, to: sorted.at(-1) ?? NaN };
}

/** Of sorted values. */
export function percentile(sorted: readonly number[], share: number): number {
  const at = Math.min(sorted.length - 1, Math.floor(sorted.length * share));
  const below = sorted[at - 1];
  const value = sorted[at] ?? NaN;
  return share === 0.5 && sorted.length % 2 === 0 && below !== undefined ? (below + value) / 2 : value;
}

/** One thread that is busy all the time, or all cores, is what a rate is bound by. */
export function saturated({ busy }: Row): string {
  const cores = availableParallelism();
  const single = Object.entries(busy).filter(([part, used]) => part !== 'contender' && used >= 0.9);
  const threads = single.map(([part]) => part).filter((part) => part !== 'not ours');
  const { 'its busiest process': _part, ...parts } = busy;
  const all = Object.values(parts).reduce((sum, used) => sum + used, 0);
  if (threads.length > 0)
    return `${threads.join(' and ')} saturated${all > 0.9 * cores ? ', all cores too' : ''}`;
  return all > 0.9 * cores ? `all ${cores} cores saturated` : 'nothing saturated';
}
