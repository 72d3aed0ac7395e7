import { createInterface } from 'node:readline/promises';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import type { DeadLetter, DeadLetterEntry } from '../../runtime/dead-letters.ts';
import type { Gateway } from '../gateway.ts';
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
    limit: {
      type: 'number',
      value: 'N',
      default: 100,
      describe: 'List or show at most so many, the newest; up to 10000',
    },
    before: {
      type: 'number',
      value: 'N',
      describe: 'List or show those of a lower sequence number: the page before',
    },
    yes: { type: 'boolean', default: false, describe: 'Purge without asking' },
  },
  description:
    'A dead letter is an event that could not be handled, kept with its true reason. Redrive puts it into the inbox of the same function and trigger, where it starts anew; purge throws it away.',
  examples: [
    ['dead list', 'Those of all functions'],
    ['dead list orders --before 4711', 'The hundred before that one'],
    ['dead show orders --seq 7', 'One with its payload and stack'],
    ['dead redrive orders', 'Handle all of them again'],
    ['dead redrive orders --seq 7 --to orders-v2/new', 'One, by another function'],
    ['dead purge orders --yes', 'Throw all of them away'],
  ],
  async run({ site: dir, context, namespace, action, name, seq, to, limit, before, yes, output }) {
    if (name === undefined && action !== 'list')
      throw usageError(`dead ${action} needs the name of a function`);
    if (to !== undefined && (action !== 'redrive' || !/^[^/]+\/[^/]+$/.test(to))) {
      throw usageError('--to goes with redrive and is FUNCTION/TRIGGER', 'For example --to orders/new.');
    }
    const bad = seq?.find((one) => !Number.isInteger(one) || one < 1);
    if (bad !== undefined) throw usageError('--seq takes the sequence numbers that "faas dead list" shows');
    if (!Number.isInteger(limit) || limit < 1 || limit > maxLimit) {
      throw usageError(
        `--limit must be a whole number from 1 to ${maxLimit}`,
        'See more of them with --before.',
      );
    }
    const site = await openRunningSite({ site: dir, context });
    const key = { namespace, name: name ?? '' };
    switch (action as (typeof actions)[number]) {
      case 'list':
        return await list(site, namespace, name, { limit, before, seq }, output);
      case 'show':
        return await show(site, key, { limit, before, seq }, output);
      case 'redrive':
        return await redrive(site, key, { seqs: seq, to }, output);
      case 'purge':
        return await purge(site, key, seq, yes, output);
    }
  },
});

type Key = { namespace: string; name: string };

/** Of the control API. */
const maxLimit = 10_000;

interface Page {
  readonly limit: number;
  readonly before: number | undefined;
  readonly seq: number[] | undefined;
}

async function list(
  { gateway, store }: RunningSite,
  namespace: string,
  name: string | undefined,
  { limit, before, seq }: Page,
  output: string | undefined,
): Promise<void> {
  const names =
    name === undefined ? (await store.list(namespace)).map(({ metadata }) => metadata.name) : [name];
  const letters: DeadLetterEntry[] = [];
  for (const one of names)
    letters.push(...(await lettersOf(gateway, { namespace, name: one }, { limit, before, seq })));
  const found = letters.sort((a, b) => a.seq - b.seq);
  const shown = found.slice(-limit);
  // The API gives no more than that; one that has them all is not told of more.
  const first = shown[0];
  if (first !== undefined && (found.length > limit || letters.length >= maxLimit)) {
    noteOlder(shown.length, first.seq);
  }
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

function noteOlder(shown: number, first: number): void {
  note(`Only the newest ${shown}; those before them: --before ${first}, or a greater --limit.`);
}

/** One more than asked for, which tells that there are more. With sequences: just those, wherever they lie. */
async function lettersOf(
  gateway: Gateway,
  key: Key,
  { limit, before, seq }: Page,
): Promise<DeadLetterEntry[]> {
  if (seq === undefined) return await gateway.deadLetters(key, Math.min(limit + 1, maxLimit), before);
  const letters: DeadLetterEntry[] = [];
  for (const one of seq)
    letters.push(...(await gateway.deadLetters(key, 1, one + 1)).filter((it) => it.seq === one));
  return letters;
}

async function show(
  { gateway }: RunningSite,
  key: Key,
  page: Page,
  output: string | undefined,
): Promise<void> {
  let wanted = page.seq;
  if (wanted === undefined) {
    const found = (await lettersOf(gateway, key, page)).map(({ seq }) => seq);
    wanted = found.slice(-page.limit);
    const first = wanted[0];
    if (first !== undefined && found.length > wanted.length) noteOlder(wanted.length, first);
  }
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
