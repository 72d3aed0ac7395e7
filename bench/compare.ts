/**
 * Two commits side by side: `node bench/compare.ts FOLDER FOLDER`, each kept by BENCH_RESULTS. Ratios to the baseline of
 * the same run are compared, never figures of two runs; the copy's own spread says what is no difference.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { short, type Result } from './frame/report.ts';
import type { Spread } from './frame/rounds.ts';

const [before, after] = process.argv.slice(2);
if (before === undefined || after === undefined) {
  console.error('usage: node bench/compare.ts FOLDER FOLDER');
  process.exit(2);
}
const read = (folder: string, file: string): Result =>
  JSON.parse(readFileSync(join(folder, file), 'utf8')) as Result;
const text = ({ median, from, to }: Spread): string => `${short(median)} (${short(from)}–${short(to)})`;

for (const file of readdirSync(before).filter((name) => readdirSync(after).includes(name))) {
  const [old, now] = [read(before, file), read(after, file)];
  console.log(`\n${old.name}: ${old.machine.commit} → ${now.machine.commit}, as ratios to the baseline`);
  for (const { name, figures } of now.rows.slice(1)) {
    for (const [figure, { ratio }] of Object.entries(figures)) {
      const past = old.rows.find((row) => row.name === name)?.figures[figure]?.ratio;
      if (past) console.log(`  ${name}, ${figure}: ${text(past)} → ${text(ratio)}`);
    }
  }
}
