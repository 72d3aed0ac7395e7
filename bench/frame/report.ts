/** What a benchmark prints, and keeps. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { machine, type Machine } from './machine.ts';
import { resultsFolder } from './options.ts';
import { saturated, type Answer, type Spread } from './rounds.ts';

export interface Result extends Answer {
  readonly machine: Machine;
}

/** Prints the answer; with BENCH_RESULTS it is kept there too. `notes` say what a reader must know. */
export async function report(answer: Answer, notes: readonly string[] = []): Promise<void> {
  const facts = await machine();
  console.log(`\n## ${answer.name}\n\n${answer.text} ${answer.rounds} rounds.\n`);
  console.log(table(answer));
  for (const row of answer.rows) {
    const parts = Object.entries(row.busy).map(([part, cores]) => `${part} ${cores.toFixed(2)}`);
    console.log(`${row.name}: ${saturated(row)}; busy cores: ${parts.join(', ')}`);
  }
  for (const note of notes) console.log(note);
  console.log(
    `\n${facts.date}, ${facts.commit}, \`${facts.command}\`; ${facts.cores} × ${facts.cpu}, ${facts.memoryGiB} GiB, ` +
      `Linux ${facts.kernel}; ${Object.entries(facts.versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(', ')}`,
  );
  if (resultsFolder === undefined) return;
  mkdirSync(resultsFolder, { recursive: true });
  const result: Result = { ...answer, machine: facts };
  writeFileSync(join(resultsFolder, `${answer.name}.json`), `${JSON.stringify(result, undefined, 2)}\n`);
}

/** Markdown: a figure's median (smallest–greatest), and its ratio to the baseline of the same round. */
export function table({ rows }: Answer): string {
  const figures = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))];
  const lines = [
    ['', ...figures],
    ['---', ...figures.map(() => '---')],
  ];
  for (const [index, row] of rows.entries()) {
    const cells = figures.map((figure) => {
      const found = row.figures[figure];
      if (!found) return '–';
      const ratio = index === 0 || !Number.isFinite(found.ratio.median) ? '' : ` **× ${text(found.ratio)}**`;
      return `${text(found.value)}${ratio}`;
    });
    lines.push([row.name, ...cells]);
  }
  return lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n') + '\n';
}

const text = ({ median, from, to }: Spread): string => `${short(median)} (${short(from)}–${short(to)})`;

export function short(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return Number(value.toPrecision(Math.max(3, Math.round(value).toString().length)))
    .toFixed(digits)
    .replace(/\B(?=(\d{3})+$)/g, digits === 0 ? ' ' : '');
}
