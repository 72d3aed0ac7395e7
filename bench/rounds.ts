/**
 * The frame of every benchmark: contenders take turns, round by round, so that what else the machine does hits all
 * of them alike; a second copy of the baseline shows the noise. Figures are ratios to the baseline of the same round.
 */
import { readFile, readdir } from 'node:fs/promises';

export interface Sample {
  /** Higher is better for `rate`, lower for the others. */
  readonly [figure: string]: number;
}

export interface Contender {
  readonly name: string;
  readonly round: () => Promise<Sample>;
}

export interface Summary {
  readonly name: string;
  readonly figures: Record<string, { median: number; ratio: number; from: number; to: number }>;
}

/** The first contender is the baseline. One round of each is run before, and not counted. */
export async function compare(contenders: readonly Contender[], rounds: number): Promise<Summary[]> {
  for (const { round } of contenders) await round();
  const samples = contenders.map((): Sample[] => []);
  for (let round = 0; round < rounds; round++) {
    process.stderr.write(`round ${round + 1} of ${rounds}\n`);
    for (const [index, contender] of contenders.entries()) samples[index]?.push(await contender.round());
  }
  const baseline = samples[0] ?? [];
  return contenders.map(({ name }, index) => {
    const own = samples[index] ?? [];
    const figures: Summary['figures'] = {};
    for (const figure of Object.keys(baseline[0] ?? {})) {
      const ratios = own.map((sample, round) => (sample[figure] ?? NaN) / (baseline[round]?.[figure] ?? NaN));
      ratios.sort((a, b) => a - b);
      const values = own.map((sample) => sample[figure] ?? NaN).sort((a, b) => a - b);
      figures[figure] = {
        median: middle(values),
        ratio: middle(ratios),
        from: ratios[0] ?? NaN,
        to: ratios.at(-1) ?? NaN,
      };
    }
    return { name, figures };
  });
}

const middle = (sorted: readonly number[]): number => sorted[Math.floor(sorted.length / 2)] ?? NaN;

export function report(question: string, summaries: readonly Summary[]): void {
  console.log(`\n${question}`);
  for (const { name, figures } of summaries) {
    const parts = Object.entries(figures).map(
      ([figure, { median, ratio, from, to }]) =>
        `${figure} ${round3(median)} (× ${ratio.toFixed(2)}, ${from.toFixed(2)}–${to.toFixed(2)})`,
    );
    console.log(`  ${name.padEnd(24)} ${parts.join('   ')}`);
  }
}

const round3 = (value: number): string => Number(value.toPrecision(3)).toString();

/** CPU seconds that a process and all its descendants have used so far. */
export async function cpuSeconds(pid: number): Promise<number> {
  const processes = new Map<number, { parent: number; ticks: number }>();
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const stat = await readFile(`/proc/${entry}/stat`, 'utf8').catch(() => '');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // Fields after the name (proc(5)): 1 = ppid, 11 = utime, 12 = stime, in clock ticks of 10 ms.
    processes.set(Number(entry), {
      parent: Number(fields[1]),
      ticks: Number(fields[11]) + Number(fields[12]),
    });
  }
  const belongs = (candidate: number): boolean => {
    for (let at: number | undefined = candidate; at; at = processes.get(at)?.parent)
      if (at === pid) return true;
    return false;
  };
  const ticks = [...processes]
    .filter(([candidate]) => belongs(candidate))
    .map(([, { ticks: used }]) => used || 0);
  return ticks.reduce((sum, used) => sum + used, 0) / 100;
}

export function percentile(values: number[], share: number): number {
  const sorted = values.sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}
