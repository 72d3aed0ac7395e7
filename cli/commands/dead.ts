import { createInterface } from 'node:readline/promises';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import type { DeadLetter, DeadLetterEntry } from '../../runtime/dead-letters.ts';
import { age, fields, note, print, printData, table } from '../output.ts';
import { openRunningSite, type RunningSite } from '../site.ts';

const actions = ['list', 'show', 'redrive', 'purge'] as const;

export const command = defineCommand({
  positionals: {
    action: { type: 'string', describe: 'What to do', required: true, choices: actions },
    name: { type: 'string', describe: 'The function; list without it: all functions', completes: 'function' },
  },
  options: {
    seq: {
      type: 'number',
      array: true,
      value: 'N',
      describe: 'Only this one, by the sequence number that list shows; may be given several times',
    },
    to: {
      type: 'string',
      value: 'FUNCTION/TRIGGER',
      describe: 'Redrive into this inbox instead, when the trigger is gone',
    },
    limit: { type: 'number', value: 'N', describe: 'List at most so many, the newest' },
    yes: { type: 'boolean', default: false, describe: 'Purge without asking' },
  },
  description:
    'A dead letter is an event that could not be handled, kept with its true reason. Redrive puts it into the inbox of the same function and trigger, where it starts anew; purge throws it away.',
  examples: [
    ['dead list', 'Those of all functions'],
    ['dead show orders --seq 7', 'One with its payload and stack'],
    ['dead redrive orders', 'Handle all of them again'],
    ['dead redrive orders --seq 7 --to orders-v2/new', 'One, by another function'],
    ['dead purge orders --yes', 'Throw all of them away'],
  ],
  async run({ site: dir, namespace, action, name, seq, to, limit, yes, output }) {
    if (name === undefined && action !== 'list')
      throw usageError(`dead ${action} needs the name of a function`);
    if (to !== undefined && (action !== 'redrive' || !/^[^/]+\/[^/]+$/.test(to))) {
      throw usageError('--to goes with redrive and is FUNCTION/TRIGGER', 'For example --to orders/new.');
    }
    const bad = seq?.find((one) => !Number.isInteger(one) || one < 1);
    if (bad !== undefined) throw usageError('--seq takes the sequence numbers that "faas dead list" shows');
    const site = await openRunningSite({ site: dir });
    const key = { namespace, name: name ?? '' };
    switch (action as (typeof actions)[number]) {
      case 'list':
        return await list(site, namespace, name, { limit, seq }, output);
      case 'show':
        return await show(site, key, seq, output);
      case 'redrive':
        return await redrive(site, key, { seqs: seq, to }, output);
      case 'purge':
        return await purge(site, key, seq, yes, output);
    }
  },
});

type Key = { namespace: string; name: string };

async function list(
  { gateway, store }: RunningSite,
  namespace: string,
  name: string | undefined,
  { limit, seq }: { limit: number | undefined; seq: number[] | undefined },
  output: string | undefined,
): Promise<void> {
  const names =
    name === undefined ? (await store.list(namespace)).map(({ metadata }) => metadata.name) : [name];
  const letters: DeadLetterEntry[] = [];
  for (const one of names) letters.push(...(await gateway.deadLetters({ namespace, name: one }, limit)));
  const shown = letters
    .filter((letter) => seq === undefined || seq.includes(letter.seq))
    .sort((a, b) => a.seq - b.seq)
    .slice(limit === undefined ? 0 : -limit);
  if (output === 'json' || output === 'yaml') return printData(shown, output);
  if (shown.length === 0) return note('There are no dead letters.');
  const now = Date.now();
  const wide = output === 'wide';
  print(
    table(
      ['SEQ', 'FUNCTION', 'TRIGGER', 'REASON', 'ATTEMPTS', 'AGE', ...(wide ? ['ID', 'ERROR'] : [])],
      shown.map((letter) => [
        String(letter.seq),
        letter.function,
        letter.trigger,
        letter.reason,
        String(letter.attempts),
        age(now - Date.parse(letter.time)),
        ...(wide ? [letter.id, errorOf(letter)] : []),
      ]),
    ),
  );
}

async function show(
  { gateway }: RunningSite,
  key: Key,
  seqs: number[] | undefined,
  output: string | undefined,
): Promise<void> {
  const wanted = seqs ?? (await gateway.deadLetters(key)).map(({ seq }) => seq);
  if (wanted.length === 0) return note('There are no dead letters.');
  const letters: DeadLetter[] = [];
  for (const seq of wanted) letters.push(await gateway.deadLetter(key, seq));
  if (output === 'json' || output === 'yaml') return printData(letters, output);
  print(letters.map((letter) => detail(letter, Date.now())).join('\n\n'));
}

async function redrive(
  { gateway }: RunningSite,
  key: Key,
  request: { seqs: number[] | undefined; to: string | undefined },
  output: string | undefined,
) {
  const result = await gateway.redrive(key, request);
  if (output === 'json' || output === 'yaml') await printData(result, output);
  else {
    const duplicates = result.duplicates === 0 ? '' : `, ${result.duplicates} were in the inbox already`;
    print(`${result.redriven} redriven${duplicates}`);
  }
  if (result.refused.length === 0) return exitCodes.ok;
  const reasons = result.refused.map(({ seq, reason }) => `  ${seq}: ${reason}`).join('\n');
  throw new Failure(exitCodes.site, `${result.refused.length} refused, and kept\n${reasons}`, {
    advice: 'Another function or trigger takes them with --to FUNCTION/TRIGGER.',
  });
}

async function purge(
  { gateway }: RunningSite,
  key: Key,
  seqs: number[] | undefined,
  yes: boolean,
  output: string | undefined,
): Promise<void> {
  if (!yes) await confirm(seqs, key.name);
  let purged = 0;
  if (seqs === undefined) purged = (await gateway.purge(key)).purged;
  else for (const seq of seqs) purged += (await gateway.purge(key, seq)).purged;
  if (output === 'json' || output === 'yaml') return printData({ purged }, output);
  print(`${purged} purged`);
}

async function confirm(seqs: number[] | undefined, name: string): Promise<void> {
  const what =
    seqs === undefined ? `all dead letters of ${name}` : `${seqs.length} of ${name}'s dead letters`;
  if (!process.stdin.isTTY) throw usageError(`this throws away ${what}`, 'Say so with --yes.');
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`Throw away ${what}? [y/N] `);
  terminal.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw usageError('nothing was thrown away');
}

function detail(letter: DeadLetter, now: number): string {
  const { headers, data, text, fault, ...facts } = letter;
  const head = fields([
    ...Object.entries(facts).map(([name, value]): [string, string] => [name, String(value)]),
    ['age', age(now - Date.parse(letter.time))],
    ...Object.entries(headers).map(([name, value]): [string, string] => [`header ${name}`, value]),
  ]);
  const title = `${fault.code}: ${fault.message}`;
  // A handler's stack begins with the title.
  const stack = fault.stack?.join('\n').startsWith(title) ? fault.stack : [title, ...(fault.stack ?? [])];
  return [head, stack.join('\n'), text ?? `${data} (base64)`].join('\n\n');
}

const errorOf = ({ fault }: DeadLetterEntry): string => `${fault.code}: ${fault.message.split('\n')[0]}`;
