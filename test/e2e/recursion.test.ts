/** Functions that call one another in a circle, by each way that an event can take from one to the next. */
import { symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { beforeAll, expect, test, vi } from 'vitest';
import { maxHops } from '../../runtime/host.ts';
import { openJournal, recordModule, type Journal } from './journal.ts';
import { startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

interface Entry {
  name: string;
  chain: number;
  depth: number;
}

let site: Site;
let journal: Journal<Entry>;

beforeAll(async () => {
  journal = await openJournal();
  site = await startSite();
  await site.write({ name: 'any', code: '' });
  // What handlers import is found as in any project: in a node_modules above them.
  await symlink(resolve(import.meta.dirname, '../../node_modules'), join(site.work, 'node_modules'));
});

const runs = (name: string, chain = 0): number[] =>
  journal
    .read()
    .filter((entry) => entry.name === name && entry.chain === chain)
    .map(({ depth }) => depth);

const upTo = (count: number): number[] => Array.from({ length: count }, (_, depth) => depth);

interface Letter {
  reason: string;
  attempts: number;
  trigger: string;
  fault: { message: string };
}

async function letters(name: string): Promise<Letter[]> {
  const { stdout } = await site.faas('dead', 'list', name, '-o', 'json');
  return JSON.parse(stdout) as Letter[];
}

/** Calls `to` by AWS's own client, which knows nothing of Atoll. */
const calling = (
  name: string,
  invocationType: 'RequestResponse' | 'Event',
  given: { spec?: object; to?: string; last?: number } = {},
): FunctionSource => ({
  name,
  spec: {
    timeoutSeconds: 30,
    env: [
      journal.env,
      { name: 'SITE', value: site.info.url },
      { name: 'AWS_ACCESS_KEY_ID', value: 'any' },
      { name: 'AWS_SECRET_ACCESS_KEY', value: 'any' },
    ],
    ...given.spec,
  },
  files: recordModule,
  code: `
    import { InvokeCommand, LambdaClient } from '@aws-sdk/client-lambda';
    import { record } from './record.ts';
    const client = new LambdaClient({ endpoint: process.env['SITE'], maxAttempts: 1 });
    export const handler = async ({ requestPayload, ...own }: any) => {
      const { chain = 0, depth = 0 } = { ...requestPayload, ...own };
      record({ name: '${name}', chain, depth });
      const next = { chain, depth: depth + 1 };
      if (depth === ${given.last ?? -1}) return next;
      try {
        const answer = await client.send(new InvokeCommand({
          FunctionName: '${given.to ?? name}',
          InvocationType: '${invocationType}',
          Payload: JSON.stringify(next),
        }));
        return answer.Payload?.length ? JSON.parse(Buffer.from(answer.Payload).toString()) : next;
      } catch (error) {
        return { depth, stopped: error.name, status: error.$metadata?.httpStatusCode, message: error.message };
      }
    };`,
});

test('a function that calls itself and waits is stopped after 16 hops; the last caller is told in Lambda’s words', async () => {
  await site.deploy(calling('waits', 'RequestResponse', { spec: { concurrency: 32 } }));
  expect(await site.invoke('waits')).toEqual({
    depth: maxHops - 1,
    stopped: 'RecursiveInvocationException',
    status: 400,
    message: expect.stringContaining('16 functions') as string,
  });
  expect(runs('waits')).toEqual(upTo(maxHops));
  expect(await letters('waits')).toEqual([]);
});

test('a function that calls itself and does not wait leaves a dead letter', async () => {
  await site.deploy(calling('leaves', 'Event'));
  await site.invoke('leaves');
  const found = await until('there is a dead letter', async () => {
    const all = await letters('leaves');
    return all.length > 0 ? all : undefined;
  });
  expect(found).toMatchObject([
    {
      reason: 'Recursion',
      attempts: 0,
      trigger: 'invoke',
      fault: { message: expect.stringContaining('16') as string },
    },
  ]);
  expect(runs('leaves')).toEqual(upTo(maxHops));
  // Redriven it begins anew, and so it is stopped anew while the circle is there, …
  await site.faas('dead', 'redrive', 'leaves');
  await until('it is there again', async () => (await letters('leaves')).length > 0 || undefined);
  expect(runs('leaves')).toEqual(upTo(2 * maxHops));
  // … and runs once the circle is mended.
  await site.deploy(calling('leaves', 'Event', { last: 2 * maxHops }));
  await site.faas('dead', 'redrive', 'leaves');
  await until('it ran', () => runs('leaves').length === 2 * maxHops + 1 || undefined);
  expect(await letters('leaves')).toEqual([]);
});

test('twenty chains at once, in one process: each has a count of its own', async () => {
  const chains = 20;
  await site.deploy(calling('many', 'Event', { spec: { concurrency: 64 } }));
  await Promise.all(
    Array.from({ length: chains }, async (_, chain) => {
      const answer = await site.fetch('/2015-03-31/functions/many/invocations', {
        method: 'POST',
        body: JSON.stringify({ chain }),
      });
      expect(answer.status).toBe(200);
    }),
  );
  await until('each has its dead letter', async () => (await letters('many')).length === chains || undefined);
  for (let chain = 0; chain < chains; chain++) expect(runs('many', chain)).toEqual(upTo(maxHops));
});

test('an older client, which looks in the environment alone, hands the count on as well', async () => {
  await site.deploy({
    name: 'older',
    spec: { env: [journal.env, { name: 'SITE', value: site.info.url }] },
    files: recordModule,
    code: `
      import { record } from './record.ts';
      export const handler = async ({ depth = 0 }) => {
        record({ name: 'older', chain: 0, depth });
        await fetch(process.env.SITE + '/2015-03-31/functions/older/invocations', {
          method: 'POST',
          body: JSON.stringify({ depth: depth + 1 }),
          headers: {
            'x-amz-invocation-type': 'Event',
            'x-amzn-trace-id': process.env._X_AMZN_TRACE_ID,
          },
        });
      };`,
  });
  await site.invoke('older');
  await until('there is a dead letter', async () => (await letters('older')).length === 1 || undefined);
  expect(runs('older')).toEqual(upTo(maxHops));
});

test('a circle of two, half of it by NATS and half by calls, is counted as one', async () => {
  await site.deploy(
    calling('there', 'Event', {
      to: 'back',
      spec: { triggers: [{ name: 'plain', nats: { subject: 'circle.there', reply: 'Never' } }] },
    }),
  );
  await site.deploy({
    name: 'back',
    spec: { env: [journal.env], onSuccess: { nats: { subject: 'circle.there' } } },
    files: recordModule,
    code: `
      import { record } from './record.ts';
      export const handler = async ({ chain, depth }) => record({ name: 'back', chain, depth });`,
  });
  const nats = await site.nats();
  nats.publish('circle.there', '{}');
  const found = await until('there is a dead letter', async () => {
    const all = [...(await letters('there')), ...(await letters('back'))];
    return all.length > 0 ? all : undefined;
  });
  expect(found).toMatchObject([{ reason: 'Recursion', attempts: 0 }]);
  expect([runs('there').length, runs('back').length]).toEqual([maxHops / 2, maxHops / 2]);
});

test('with recursion: Allow a function may call itself as often as it likes', async () => {
  const last = 2 * maxHops;
  await site.deploy(calling('allowed', 'Event', { last, spec: { recursion: 'Allow' } }));
  await site.invoke('allowed');
  await until('it came to its end', () => runs('allowed').includes(last) || undefined);
  expect(runs('allowed')).toEqual(upTo(last + 1));
  expect(await letters('allowed')).toEqual([]);
});
