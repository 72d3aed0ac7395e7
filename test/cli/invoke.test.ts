import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connect } from '@nats-io/transport-node';
import { beforeAll, describe, expect, test } from 'vitest';
import type { DeadLetterEntry } from '../../runtime/dead-letters.ts';
import type { LogRecord } from '../../runtime/log.ts';
import { closeLater } from '../support/closing.ts';
import { startProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import {
  faasFile,
  folderWith,
  functionFolder,
  startGreeterSite,
  type RunOptions,
  type TestSite,
} from './run.ts';

describe.skipIf(await missing('nats-server'))('a function that runs', () => {
  let site: TestSite;
  const run = (args: string[], options?: RunOptions) => site.faas(args, options);
  const ok = (args: string[], options?: RunOptions) => site.ok(args, options);

  beforeAll(async () => {
    site = await startGreeterSite();
  });

  test('an error of the function: exit code 1, its stack in the sources on stderr, nothing on stdout', async () => {
    const { code, stdout, stderr } = await run(['invoke', 'greeter', '-d', '{"fail":"too far"}']);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toContain('RangeError: too far');
    expect(stderr).toMatch(/at handler \(.*index\.ts:5:11\)/);
  });

  test('an event comes from -d, from a file, and through a pipe', async () => {
    const event = join(await folderWith({ 'event.json': '{"name":"file"}' }), 'event.json');
    expect(JSON.parse(await ok(['invoke', 'greeter', '-d', `@${event}`]))).toMatchObject({ hello: 'file' });
    expect(JSON.parse(await ok(['invoke', 'greeter'], { stdin: '{"name":"pipe"}' }))).toMatchObject({
      hello: 'pipe',
    });
    expect(
      JSON.parse(await ok(['invoke', 'greeter', '-d', '@-'], { stdin: '{"name":"dash"}' })),
    ).toMatchObject({ hello: 'dash' });
    expect((await run(['invoke', 'greeter', '-d', '@/nowhere'])).code).toBe(2);
  });

  test('--tail prints the log on stderr, --async the request id on stdout', async () => {
    const { stdout, stderr } = await run(['invoke', 'greeter', '-d', '{"name":"t"}', '--tail']);
    expect(JSON.parse(stdout)).toMatchObject({ hello: 't' });
    expect(stderr).toContain('REPORT RequestId');
    const id = (await ok(['invoke', 'greeter', '--async', '-d', '{"name":"async"}'])).trim();
    expect(id).toMatch(/^[0-9a-f-]{36}$/);
    const logs = await startProcess(process.execPath, [
      ...[faasFile, 'logs', 'greeter', '-f', '--request-id', id, '--site', site.dir],
    ]);
    await logs.line(/REPORT/);
  });

  test('--timeout gives up waiting with exit code 3', async () => {
    const slow = await functionFolder(
      'slow',
      '',
      'export const handler = () => new Promise((r) => setTimeout(r, 5000));\n',
    );
    await ok(['deploy', slow]);
    const { code, stderr } = await run(['invoke', 'slow', '--timeout', '0.5']);
    expect(code).toBe(3);
    expect(stderr).toContain('did not answer within 0.5 s');
  });

  test('logs are readable, or JSON lines; one request can be singled out', async () => {
    const { requestId } = JSON.parse(await ok(['invoke', 'greeter', '-d', '{"name":"logged"}'])) as {
      requestId: string;
    };
    const records = (await ok(['logs', 'greeter', '--request-id', requestId, '-o', 'json']))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as LogRecord);
    expect(records.every((record) => record.requestId === requestId)).toBe(true);
    expect(records.at(-1)).toMatchObject({ source: 'report', outcome: 'returned' });
    expect(await ok(['logs', 'greeter', '--since', '1m'])).toMatch(/\d\d:\d\d:\d\d\.\d{3} INFO .*called/);
    expect((await ok(['logs', 'greeter', '--limit', '1'])).trim().split('\n')).toHaveLength(1);
  });

  test('describe shows conditions, triggers with their connection, and where to look further', async () => {
    const text = await ok(['describe', 'greeter']);
    expect(text).toMatch(/Ready +True/);
    expect(text).toMatch(/in +nats +greeter +True/);
    expect(text).toMatch(/Dead letters: +0/);
    const data = JSON.parse(await ok(['describe', 'greeter', '-o', 'json'])) as {
      live: { triggers: unknown[] };
    };
    expect(data.live.triggers).toEqual([expect.objectContaining({ name: 'in', ready: true })]);
  });

  test('a function that is not there: exit code 3, and the name that was meant', async () => {
    for (const args of [
      ['invoke', 'greter'],
      ['logs', 'greter'],
      ['get', 'greter'],
      ['describe', 'greter'],
      ['delete', 'greter'],
    ]) {
      const { code, stderr } = await run(args);
      expect({ args, code }).toEqual({ args, code: 3 });
      expect(stderr).toContain('FunctionNotFound');
    }
    expect((await run(['get', 'greter'])).stderr).toContain('Did you mean "greeter"?');
  });

  test('dead letters are listed, shown, redriven and purged', async () => {
    const name = 'mortal';
    const spec =
      '  retry: { maxAttempts: 1 }\n  triggers: [{ name: in, nats: { subject: mortal, reply: Never } }]\n';
    const dying = await functionFolder(
      name,
      spec,
      `export const handler = (e: { n: number }) => { throw new TypeError('bad ' + e.n); };\n`,
    );
    await ok(['deploy', dying]);
    const nats = await connect({ servers: site.info.nats.url });
    closeLater(() => nats.close());
    for (const n of [1, 2, 3]) nats.publish(name, JSON.stringify({ n }));
    await nats.flush();
    const list = async () => JSON.parse(await ok(['dead', 'list', name, '-o', 'json'])) as DeadLetterEntry[];
    await expect.poll(list, { timeout: 60_000 }).toHaveLength(3);
    const letters = await list();
    expect(letters[0]).toMatchObject({
      function: name,
      trigger: 'in',
      reason: 'RetriesExhausted',
      attempts: 1,
    });
    expect(await ok(['dead', 'list'])).toMatch(/SEQ +FUNCTION +TRIGGER +REASON +ATTEMPTS +AGE/);
    const shown = await ok(['dead', 'show', name, '--seq', String(letters[0]?.seq)]);
    expect(shown).toMatch(/TypeError: bad \d/);
    expect(shown).toMatch(/\{"n":\d\}/);

    expect((await run(['dead', 'redrive', name, '--to', 'mortal/gone'])).code).toBe(3);
    expect(await ok(['dead', 'purge', name, '--seq', String(letters[0]?.seq), '--yes'])).toContain(
      '1 purged',
    );
    expect(await list()).toHaveLength(2);

    await writeFile(join(dying, 'index.ts'), 'export const handler = (e: { n: number }) => e.n;\n');
    await ok(['deploy', dying]);
    expect(await ok(['dead', 'redrive', name])).toContain('2 redriven');
    await expect.poll(list, { timeout: 60_000 }).toHaveLength(0);
    expect((await run(['dead', 'purge', name])).code).toBe(2);
  });
});
