import { chmod, mkdir, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { describe, expect, test, vi } from 'vitest';
import type { Check } from '../../cli/doctor/check.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startMosquitto } from '../support/mosquitto.ts';
import { startNats } from '../support/nats.ts';
import { missing } from '../support/requirement.ts';
import { startS3Proxy } from '../support/s3-proxy.ts';
import { startVersitygw } from '../support/s3.ts';
import { faas, functionFolder, startSite, type Ended } from './run.ts';

vi.setConfig({ testTimeout: 180_000 });

interface Report {
  readonly code: number | null;
  readonly ok: boolean;
  readonly checks: readonly Check[];
  /** The one of that part. */
  of(part: string): Check | undefined;
}

function reportOf({ code, stdout, stderr }: Ended): Report {
  const { ok, checks } = JSON.parse(stdout || `{"checks":[],"stderr":${JSON.stringify(stderr)}}`) as Report;
  // Whatever is wrong, what to do about it is said.
  for (const { state, part, advice } of checks) {
    if (state === 'problem') expect(advice, part).toMatch(/\w{4}/);
  }
  return { code, ok, checks, of: (part) => checks.find((check) => check.part === part) };
}

const doctor = async (dir: string, env: Record<string, string> = {}): Promise<Report> =>
  reportOf(await faas(['doctor', '--site', dir, '-o', 'json'], { env }));

const problems = ({ checks }: Report): string[] =>
  checks.filter(({ state }) => state === 'problem').map(({ part }) => part);

test('where there is no site the programs are looked at, and the site is missing', async () => {
  const ended = await faas(['doctor'], { cwd: '/' });
  expect(ended.code).toBe(3);
  expect(ended.stdout).toMatch(/✓ nodejs24\.x +Node v24\./);
  expect(ended.stdout).toMatch(/✓ nodejs22\.x +Node v22\./);
  expect(ended.stdout).toMatch(/✗ site +no site: .*\n +→ Start one with "faas up"/);
});

test('a nats-server that is too old is passed over, and said', async () => {
  const folder = await temporaryFolder();
  await writeFile(join(folder, 'nats-server'), '#!/bin/sh\necho "nats-server: v2.9.10"\n', { mode: 0o755 });
  const env = { PATH: `${folder}:${process.env['PATH']}`, ATOLL_TOOLS: join(folder, 'none') };
  const report = await doctor('/', env);
  expect(report.of('nats-server')).toMatchObject({
    state: 'warning',
    message: expect.stringMatching(/is 2\.9\.10, older than 2\.15\.0: passed over/) as string,
    advice: expect.stringMatching(/2\.15\.0 or newer into PATH/) as string,
  });
});

describe.skipIf(await missing('nats-server', 'versitygw', 'mosquitto'))('of a site', () => {
  test.concurrent(
    'all of its parts are well, then away one by one, then well again; no secret is told',
    async ({ expect }) => {
      const secret = 's3cr3t-word';
      const [nats, mosquitto, s3] = await Promise.all([
        startNats({ domain: 'local', config: `authorization { user: robot, password: "${secret}" }` }),
        startMosquitto(),
        startVersitygw(),
      ]);
      const proxy = await startS3Proxy(s3.endpoint);
      const site = await startSite({
        args: [
          ...['--nats', nats.url.replace('//', `//robot:${secret}@`)],
          ...['--mqtt', mosquitto.url.replace('//', `//m:${secret}@`)],
          ...['--s3', `${proxy.endpoint}/${s3.bucket}`],
        ],
        env: { AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey },
      });
      await site.ok(['deploy', await functionFolder('hello')]);
      const outputs: string[] = [];
      const look = async (): Promise<Report> => {
        const ended = await site.faas(['doctor', '-o', 'json']);
        outputs.push(ended.stdout + ended.stderr);
        return reportOf(ended);
      };

      const well = await look();
      // ROS is there or not, as this machine has it.
      expect(well.checks.filter(({ state, part }) => state !== 'ok' && part !== 'ros')).toEqual([]);
      expect(well).toMatchObject({ code: 0, ok: true });
      expect(well.checks.map(({ part }) => part)).toEqual([
        ...[
          'nodejs24.x',
          'nodejs22.x',
          'setpriv',
          'nats-server',
          'ros',
          'clock',
          'folder',
          'disk',
          'secrets',
        ],
        ...['site', 'gateway', 'nats', 'jetstream', 'ATOLL_INBOX', 'ATOLL_DEAD', 'mqtt', 's3', 's3 clock'],
        'function default/hello',
      ]);
      expect(well.of('site')?.message).toContain(`process ${site.info.pid}`);
      expect(well.of('nats')?.message).toMatch(/nats-server 2\.\d+\.\d+ at nats:\/\/127.*up to 8 MiB/);
      expect(well.of('jetstream')?.message).toContain('domain local');
      expect(well.of('s3')?.message).toContain('can be read and written');
      const human = await site.faas(['doctor']);
      expect(human.code).toBe(0);
      expect(human.stdout.split('\n').filter((line) => line.startsWith('✓'))).toHaveLength(
        well.checks.filter(({ state }) => state === 'ok').length,
      );
      expect(human.stderr).toBe('All is well.\n');

      // A clock that is wrong, a bucket that is gone, a signature that is refused.
      proxy.misbehave(async ({ response, real }) => {
        const { status, headers, body } = await real();
        const date = new Date(Date.now() - 3_600_000).toUTCString();
        response.writeHead(status, { ...headers, date }).end(body);
      });
      expect((await look()).of('s3 clock')).toMatchObject({
        state: 'problem',
        message: expect.stringMatching(/^3(59|60)\d s behind this machine/) as string,
      });
      proxy.misbehave(undefined);
      const credentials = join(site.dir, 's3.json');
      const right = await readFile(credentials, 'utf8');
      await writeFile(credentials, right.replace(s3.secretAccessKey, `${secret}-s3`));
      expect((await look()).of('s3')).toMatchObject({
        state: 'problem',
        message: expect.stringMatching(/access was refused \(SignatureDoesNotMatch\)/) as string,
        advice: expect.stringContaining('S3 credentials') as string,
      });
      await writeFile(credentials, right);
      const config = join(site.dir, 'site.json');
      const info = await readFile(config, 'utf8');
      await writeFile(config, info.replace(`"${s3.bucket}"`, '"nowhere"'));
      expect((await look()).of('s3')).toMatchObject({
        state: 'problem',
        message: expect.stringMatching(/nowhere.*the bucket does not exist/) as string,
        advice: expect.stringContaining('Make the bucket') as string,
      });
      await writeFile(config, info);

      // All servers away, the gateway frozen.
      await Promise.all([nats.stop(), mosquitto.stop(), s3.stop()]);
      const away = await look();
      expect(away.code).toBe(3);
      expect(problems(away)).toEqual(expect.arrayContaining(['nats', 'mqtt', 's3']));
      expect(away.of('nats')?.message).toMatch(/NATS at .* cannot be reached/);
      expect(away.of('gateway')?.state).toBe('ok');
      process.kill(site.info.pid, 'SIGSTOP');
      const frozen = await look().finally(() => process.kill(site.info.pid, 'SIGCONT'));
      expect(frozen.of('gateway')).toMatchObject({
        state: 'problem',
        message: expect.stringMatching(/does not answer within 5 s/) as string,
      });

      await Promise.all([nats.restart(), mosquitto.restart(), s3.restart()]);
      await expect.poll(async () => problems(await look()), { timeout: 60_000, interval: 500 }).toEqual([]);
      for (const output of outputs) {
        expect(output).not.toContain(secret);
        expect(output).not.toContain(s3.secretAccessKey);
      }
    },
  );

  test.concurrent(
    'a NATS server without JetStream, with small messages, and one whose shares are used up',
    async () => {
      const bare = await startNats({ jetstream: false, maxPayload: 1024 * 1024 });
      const { dir } = await startSite({ args: ['--nats', bare.url] });
      const report = await doctor(dir);
      expect(report.of('nats')).toMatchObject({
        state: 'warning',
        advice: expect.stringContaining('max_payload') as string,
      });
      expect(report.of('jetstream')).toMatchObject({
        state: 'problem',
        advice: expect.stringContaining('Enable JetStream') as string,
      });
      expect(report.of('mqtt')).toMatchObject({ state: 'none' });

      const full = await startNats();
      const nc = await full.connect();
      const manager = await jetstreamManager(nc);
      for (const [name, word] of [
        ['ATOLL_DEAD', 'dead'],
        ['ATOLL_INBOX', 'inbox'],
      ] as const) {
        const subjects = [`atoll.local.${word}.>`];
        await manager.streams.add({ name, subjects, max_msgs_per_subject: 10 });
        for (let n = 0; n < 9; n += 1) {
          await jetstream(nc).publish(`atoll.local.${word}.default.orders.new`, 'x');
        }
      }
      const crowded = await doctor((await startSite({ args: ['--nats', full.url] })).dir);
      expect(crowded.code).toBe(3);
      for (const [name, does] of [
        ['ATOLL_DEAD', /Redrive or purge/],
        ['ATOLL_INBOX', /too slow/],
      ] as const) {
        expect(crowded.of(name)).toMatchObject({
          state: 'problem',
          message: expect.stringMatching(/^9 .*default\/orders\/new has 9 of 10 allowed/) as string,
          advice: expect.stringMatching(does) as string,
        });
      }
    },
  );

  test.concurrent(
    "when only functions are wrong the exit code is 1, and each tells its condition's reason and advice",
    async () => {
      const site = await startSite();
      await site.ok(['deploy', await functionFolder('fine')]);
      const spec = 'env: [{ name: A, valueFrom: { secretKeyRef: { name: door, key: code } } }]';
      await site.faas(['deploy', await functionFolder('locked', `  ${spec}\n`), '--timeout', '5']);
      const stream = '  triggers: [{ name: new, jetstream: { stream: NOWHERE } }]\n';
      await site.faas(['deploy', await functionFolder('waiting', stream), '--timeout', '5']);
      await writeFile(join(site.dir, 'functions', 'default', 'Torn.yaml'), 'spec: [');
      await writeFile(join(site.dir, 'functions', 'default', 'torn.yaml'), 'spec: [');
      const report = await doctor(site.dir);
      expect(report.code).toBe(1);
      expect(report.of('function default/fine')).toMatchObject({ state: 'ok' });
      expect(report.of('function default/locked')).toMatchObject({
        state: 'problem',
        message: expect.stringMatching(/SecretNotFound: .*secrets\/default\/door\/code is missing/) as string,
      });
      expect(report.of('function default/waiting')).toMatchObject({
        state: 'problem',
        message: expect.stringContaining('NOWHERE') as string,
      });
      expect(report.of('function default/torn')).toMatchObject({
        state: 'problem',
        message: expect.stringMatching(/torn\.yaml is not valid/) as string,
        advice: expect.stringContaining('Repair the file') as string,
      });
      expect(report.of('functions')?.message).toContain('Torn.yaml is not taken for a Function');

      const stopped = await site.process.stop().then(() => doctor(site.dir));
      expect(stopped.code).toBe(3);
      expect(stopped.of('site')).toMatchObject({ state: 'problem' });
      expect(stopped.of('nats')).toMatchObject({ state: 'none', message: 'starts with the site' });
      expect(stopped.of('function default/fine')).toMatchObject({
        state: 'none',
        message: expect.stringContaining('when the site last ran') as string,
      });

      // Its folder: open to others, keys that cannot be used, a clock that went back, a newer version.
      await chmod(site.dir, 0o755);
      await mkdir(join(site.dir, 'secrets', 'default', 'door'), { recursive: true });
      const code = join(site.dir, 'secrets', 'default', 'door', 'code');
      await writeFile(code, '1234567890', { mode: 0o644 });
      await writeFile(join(site.dir, 'keys'), '{"id":"ops","secret":"tooshort"}\n', { mode: 0o600 });
      const tomorrow = new Date(Date.now() + 86_400_000);
      await utimes(join(site.dir, 'run', 'host.json'), tomorrow, tomorrow);
      const { of: found } = await doctor(site.dir);
      expect(found('folder')).toMatchObject({
        state: 'warning',
        advice: expect.stringContaining('chmod 700'),
      });
      expect(found('secrets')).toMatchObject({ state: 'problem', advice: `chmod 600 ${code}` });
      expect(found('keys')?.message).toMatch(/line 1: "secret" must be 16/);
      expect(found('clock')?.message).toMatch(/host\.json was written 86\d{3} s later than now/);
      await writeFile(join(site.dir, 'version'), '7\n');
      const newer = await doctor(site.dir);
      expect(newer.code).toBe(3);
      expect(newer.of('folder')?.message).toMatch(/layout version "7", this Atoll knows 1/);
      expect(JSON.stringify(newer.checks)).not.toContain('1234567890');
    },
  );

  test.concurrent('another key than the site asks for is told as such', async () => {
    const keys = join(await temporaryFolder(), 'keys');
    await writeFile(keys, '{"id":"ops","secret":"0123456789abcdef0123"}\n', { mode: 0o600 });
    const { dir } = await startSite({ args: ['--host', '0.0.0.0', '--keys', keys] });
    expect((await doctor(dir)).code).toBe(0);
    const report = await doctor(dir, { FAAS_KEY: 'ops.wrong' });
    expect(report.of('gateway')).toMatchObject({
      state: 'problem',
      advice: expect.stringContaining('FAAS_KEY') as string,
    });
  });
});
