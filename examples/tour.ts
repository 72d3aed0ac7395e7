/** Deploys every example and sends a real event through each kind of trigger. `npm start` and the tests share it. */
import { join } from 'node:path';
import { attempt as deadLetter } from './dead-letter-redrive/attempt.ts';
import { attempt as http } from './http-api/attempt.ts';
import { attempt as jetstream, prepare } from './jetstream-orders/attempt.ts';
import { attempt as mqtt } from './mqtt-telemetry/attempt.ts';
import { attempt as nats } from './nats-echo/attempt.ts';
import { attempt as schedule } from './schedule-report/attempt.ts';
import { expectEqual, type Attempt, type Connections } from './site.ts';

const invoke: Attempt = async (site) => {
  const sent = { text: 'by hand' };
  const { stdout } = await site.faas('invoke', 'nats-echo', '-d', JSON.stringify(sent));
  const answer = JSON.parse(stdout) as { echo: string };
  expectEqual(answer.echo, sent.text);
  return { trigger: 'invoke', sent: `faas invoke nats-echo -d ${JSON.stringify(sent)}`, answer };
};

export const examples: { [name: string]: Attempt } = {
  'nats-echo': nats,
  'jetstream-orders': jetstream,
  'mqtt-telemetry': mqtt,
  'http-api': http,
  'schedule-report': schedule,
  'dead-letter-redrive': deadLetter,
};

export interface Result {
  readonly name: string;
  readonly trigger: string;
  readonly sent: string;
  readonly answer: string;
  readonly ms: number;
  readonly ok: boolean;
}

export async function deployExamples(site: Connections, tell: (line: string) => void): Promise<void> {
  await prepare(site);
  for (const name of Object.keys(examples)) {
    tell(`deploying ${name}`);
    await site.faas('deploy', join(import.meta.dirname, name));
  }
}

/** One row for each example and for invoke, in order. */
export async function sendEvents(site: Connections): Promise<Result[]> {
  const results: Result[] = [];
  for (const [name, attempt] of [...Object.entries(examples), ['nats-echo', invoke] as const]) {
    const started = performance.now();
    try {
      const row = await attempt(site);
      const ms = performance.now() - started;
      results.push({
        name,
        trigger: row.trigger,
        sent: row.sent,
        answer: JSON.stringify(row.answer),
        ms,
        ok: true,
      });
    } catch (error) {
      const ms = performance.now() - started;
      const answer = error instanceof Error ? error.message : String(error);
      results.push({ name, trigger: '-', sent: '-', answer, ms, ok: false });
    }
  }
  return results;
}

export function table(results: readonly Result[], titles = { trigger: 'TRIGGER', name: 'FUNCTION' }): string {
  const rows = [
    ['', titles.trigger, titles.name, 'SENT', 'ANSWERED', 'MS'],
    ...results.map(({ ok, trigger, name, sent, answer, ms }) => [
      ok ? '✓' : '✗',
      trigger,
      name,
      sent,
      answer,
      ms.toFixed(1),
    ]),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
