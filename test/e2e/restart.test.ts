import { once } from 'node:events';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connectAsync } from 'mqtt';
import { beforeAll, expect, test, vi } from 'vitest';
import { isSameProcess } from '../../runtime/process/identity.ts';
import { closeLater } from '../support/closing.ts';
import { startNats } from '../support/nats.ts';
import { freePort } from '../support/ports.ts';
import { startVersitygw } from '../support/s3.ts';
import { openJournal, recordModule } from './journal.ts';
import { emptySite, living, processNamed, startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

const echo: FunctionSource = {
  name: 'echo',
  spec: {
    timeoutSeconds: 5,
    triggers: [
      { name: 'ask', nats: { subject: 'e2e.echo' } },
      { name: 'web', http: { path: '/echo', methods: ['POST'] } },
    ],
  },
  code: `export const handler = async (event, context) => ({ pid: process.pid, kind: context.trigger.kind });`,
};

/** For the tests that leave it as they found it: running, with echo deployed. */
let shared: Site;
beforeAll(async () => {
  shared = await startSite();
  await shared.deploy(echo);
});

/** By all three ways in. */
async function answers(site: Site): Promise<void> {
  await site.ready('echo');
  const nats = await site.nats();
  const reply = await nats.request('e2e.echo', '{}', { timeout: 20_000 });
  expect(reply.json()).toMatchObject({ kind: 'nats' });
  await nats.close();
  const web = await site.fetch('/echo', { method: 'POST', body: '{}' });
  expect(await web.json()).toMatchObject({ kind: 'http' });
  expect(await site.invoke('echo')).toMatchObject({ kind: 'invoke' });
}

test('a site that was stopped brings every function back, and had left no process', async () => {
  const site = shared;
  await answers(site);
  const before = site.processes();
  expect((await site.stop()).code).toBe(0);
  expect(living(before)).toEqual([]);
  await site.start();
  await answers(site);
});

test('a site whose "faas up" was killed starts again, and nothing of the killed one is left', async () => {
  const site = shared;
  const before = site.processes();
  expect(before.length).toBeGreaterThanOrEqual(4);
  await site.kill();
  await site.start();
  expect(living(before)).toEqual([]);
  await answers(site);
});

test('the host, a handler process and nats-server are replaced when they are killed', async () => {
  const site = shared;
  for (const part of ['invoker/child', 'runtime/main', 'nats-server'] as const) {
    const before = processNamed(site, part);
    process.kill(before.pid, 'SIGKILL');
    await until(`${part} is gone`, () => !isSameProcess(before.pid, before.startTime) || undefined);
    await until(`another ${part} runs`, () => processNamed(site, part));
    await until(`echo answers after ${part} was killed`, async () => (await answers(site), true));
  }
  const named = site
    .processes()
    .map(({ commandLine }) => /nats-server|runtime.main|invoker.child/.exec(commandLine)?.[0]);
  expect(named.filter((name) => name !== undefined).sort()).toEqual([
    'invoker/child',
    'nats-server',
    'runtime/main',
  ]);
});

test("the ports of the site's own broker were taken in between: it chooses others", async () => {
  const site = shared;
  await site.stop();
  // Not the usual one, which another test's site may take or leave meanwhile.
  const taken = await freePort();
  const remembered = join(site.dir, 'nats', 'ports.json');
  const ports = JSON.parse(await readFile(remembered, 'utf8')) as object;
  await writeFile(remembered, JSON.stringify({ ...ports, nats: taken }));
  const other = createServer().listen(taken, '127.0.0.1');
  await once(other, 'listening');
  closeLater(async () => void other.close());
  await site.start();
  expect(site.info.nats.url).not.toContain(`:${taken}`);
  await answers(site);
});

test('a second "faas up" in the same folder refuses and names the first', async () => {
  const site = shared;
  const second = await site.run(['up', '--dir', site.dir]);
  expect(second.code).toBe(3);
  expect(second.stderr).toContain(`process ${site.info.pid}`);
  expect(second.stderr).toContain(site.info.url);
  expect(await readFile(join(site.dir, 'site.json'), 'utf8')).toContain(`"pid": ${site.info.pid}`);
});

// Those below have sites of their own and mostly wait: they do it at the same time.

test.concurrent(
  'where the kernel does not end children with their parent, the next start ends what a killed one left',
  async () => {
    const site = await emptySite();
    await site.start({ env: { PATH: await pathWithoutSetpriv(site) } });
    await site.deploy(echo);
    // It never looks whether its host is still there.
    await site.deploy({ name: 'spins', code: 'for (;;);\nexport const handler = 1;' }, '--no-wait');
    const handlers = () =>
      site.processes().filter(({ commandLine }) => commandLine.includes('invoker/child'));
    await until('both have a process', () => handlers().length === 2 || undefined);
    const before = site.processes();
    expect(before.length).toBeGreaterThanOrEqual(5);
    await site.kill();
    await site.start();
    await until('nothing of it is left', () => living(before).length === 0 || undefined);
    await answers(site);
  },
);

/** setpriv is what asks the kernel for it. */
async function pathWithoutSetpriv(site: Site): Promise<string> {
  const bin = join(site.work, 'bin');
  await mkdir(bin, { recursive: true });
  await symlink(process.execPath, join(bin, 'node'));
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  const holding = await Promise.all(
    folders.map(async (folder) => (await readdir(folder).catch((): string[] => [])).includes('setpriv')),
  );
  return [bin, ...folders.filter((_folder, index) => !holding[index])].join(delimiter);
}

test.concurrent(
  'a NATS server that is away at the start: what needs no NATS answers, the rest follows with it',
  async () => {
    const nats = await startNats();
    const site = await startSite({ args: ['--nats', nats.url] });
    await site.deploy(echo);
    await site.stop();
    await nats.stop();
    await site.start();
    const web = await until('http answers', async () => {
      const answer = await site.fetch('/echo', { method: 'POST', body: '{}' });
      return answer.ok ? answer : undefined;
    });
    expect(await web.json()).toMatchObject({ kind: 'http' });
    expect(await site.invoke('echo')).toMatchObject({ kind: 'invoke' });
    const { stdout } = await site.faas('describe', 'echo');
    expect(stdout).toMatch(/ask .*False\s+NatsUnavailable.*127\.0\.0\.1/);
    await nats.restart();
    await answers(site);
  },
);

test.concurrent('an S3 that is away at the start: packages come from the cache', async () => {
  const s3 = await startVersitygw();
  const env = { AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
  const args = ['--s3', `${s3.endpoint}/${s3.bucket}`];
  const site = await startSite({ args, env });
  const deployed = await site.deploy(echo);
  expect(deployed.stdout).toMatch(/KiB uploaded/);
  expect(await readdir(join(site.dir, 'packages'))).toEqual([]);
  await site.stop();
  await s3.stop();
  // The credentials are kept by the site.
  await site.start({ args });
  await answers(site);
});

interface Handled {
  via: string;
  n: number;
}

test.concurrent(
  'what was accepted is handled or dead-lettered while every process of the site is killed in turn',
  async () => {
    const count = 500;
    const journal = await openJournal<Handled>();
    const site = await startSite();
    const nats = await site.nats();
    await (await jetstreamManager(nats)).streams.add({ name: 'E2E', subjects: ['e2e.numbers'] });
    await site.deploy({
      name: 'collect',
      spec: {
        timeoutSeconds: 10,
        concurrency: 4,
        env: [journal.env],
        retry: { maxAttempts: 2, minBackoffMs: 50 },
        triggers: [
          { name: 'stream', jetstream: { stream: 'E2E', startAt: 'All' } },
          { name: 'topic', mqtt: { topic: 'e2e/numbers', qos: 1 } },
        ],
      },
      files: recordModule,
      code: `
      import { setTimeout as pause } from 'node:timers/promises';
      import { record } from './record.ts';
      export const handler = async ({ n }, context) => {
        await pause(5);
        if (n % 50 === 7) throw new Error('never this one');
        record({ via: context.trigger.kind, n });
      };`,
    });

    /** Until it is accepted: an answer that was lost means the event comes twice, which is allowed. */
    async function send(publish: (n: number) => Promise<unknown>): Promise<void> {
      for (let n = 0; n < count;) {
        try {
          await publish(n);
          n += 1;
        } catch {
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      }
    }
    let mqtt = await connectAsync(site.info.mqtt?.url ?? '', { protocolVersion: 4, reconnectPeriod: 0 });
    closeLater(async () => void (await mqtt.endAsync(true)));
    const stream = jetstream(nats, { timeout: 2_000 });
    const sent = Promise.all([
      send((n) => stream.publish('e2e.numbers', JSON.stringify({ n }))),
      send(async (n) => {
        if (!mqtt.connected) {
          mqtt.end(true);
          // `false`: mqtt.js would wait for ever when the broker closes the connection before its CONNACK.
          mqtt = await connectAsync(
            site.info.mqtt?.url ?? '',
            { protocolVersion: 4, reconnectPeriod: 0, connectTimeout: 2_000 },
            false,
          );
        }
        const late = AbortSignal.timeout(2_000);
        await Promise.race([
          mqtt.publishAsync('e2e/numbers', JSON.stringify({ n }), { qos: 1 }),
          once(late, 'abort').then(() => {
            mqtt.end(true);
            throw new Error('no PUBACK');
          }),
        ]);
      }),
      send(async (n) => {
        const answer = await site.fetch('/2015-03-31/functions/collect/invocations', {
          method: 'POST',
          headers: { 'x-amz-invocation-type': 'Event' },
          body: JSON.stringify({ n }),
          signal: AbortSignal.timeout(5_000),
        });
        if (answer.status !== 202) throw new Error(`${answer.status}`);
      }),
    ]);
    const handled = (): number => new Set(journal.read().map(({ via, n }) => `${via} ${n}`)).size;
    const progress = (share: number): Promise<unknown> =>
      until(`${share} of the events are handled`, () => handled() >= share * 3 * count || undefined, 60_000);

    await progress(0.1);
    process.kill(processNamed(site, 'invoker/child').pid, 'SIGKILL');
    await progress(0.2);
    process.kill(processNamed(site, 'runtime/main').pid, 'SIGKILL');
    await progress(0.35);
    process.kill(processNamed(site, 'nats-server').pid, 'SIGKILL');
    await progress(0.5);
    const before = site.processes();
    await site.kill();
    await site.start();
    expect(living(before)).toEqual([]);
    await sent;

    const failing = count / 50;
    await until('all are handled', () => handled() === 3 * (count - failing) || undefined, 60_000);
    const dead = await until('the failing ones are dead letters', async () => {
      const letters = await deadLetters(site, 'collect');
      const numbers = new Set(letters.map(({ trigger, n }) => `${trigger} ${n}`));
      return numbers.size === 3 * failing ? letters : undefined;
    });
    expect(dead.filter(({ n }) => n % 50 !== 7)).toEqual([]);
    expect(new Set(dead.map(({ reason }) => reason))).toEqual(new Set(['RetriesExhausted']));
  },
);

async function deadLetters(
  site: Site,
  name: string,
): Promise<{ trigger: string; reason: string; n: number }[]> {
  const { stdout } = await site.faas('dead', 'list', name, '-o', 'json');
  const letters = JSON.parse(stdout) as { seq: number; trigger: string; reason: string }[];
  return await Promise.all(
    letters.map(async ({ seq, trigger, reason }) => {
      const answer = await site.fetch(`/atoll/v1/namespaces/default/functions/${name}/dead-letters/${seq}`);
      const letter = (await answer.json()) as { data?: string };
      return { trigger, reason, n: numberIn(letter) };
    }),
  );
}

function numberIn(letter: unknown): number {
  const text = JSON.stringify(letter);
  const found = /\{\\?"n\\?":(\d+)\}/.exec(text)?.[1];
  if (found === undefined) throw new Error(text);
  return Number(found);
}
