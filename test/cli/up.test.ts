import { readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { wsconnect } from '@nats-io/transport-node';
import { WebSocket } from 'undici';
import { describe, expect, test, vi } from 'vitest';
import { temporaryFolder } from '../support/folder.ts';
import { startNats } from '../support/nats.ts';
import { startProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import { startVersitygw } from '../support/s3.ts';
import { faas, faasFile, functionFolder, otherNode, startSite } from './run.ts';

vi.setConfig({ testTimeout: 120_000 });

/** All processes whose command line names the folder. */
async function processesOf(folder: string): Promise<string[]> {
  const lines: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (line.includes(folder)) lines.push(line.replaceAll('\0', ' '));
  }
  return lines;
}

// Each has a folder and servers of its own, and mostly waits: several do it at the same time.
describe.skipIf(await missing('nats-server'))('faas up', () => {
  test.concurrent(
    'tells where it can be reached and what to try, and stops all that it started at SIGTERM',
    async () => {
      const dir = join(await temporaryFolder(), '.atoll');
      const up = await startProcess(process.execPath, [faasFile, 'up', '--dir', dir, '--port', '0'], {
        graceMs: 20_000,
      });
      await up.line(/Ctrl-C stops it/);
      expect(up.stdout()).toMatch(/gateway: +http:\/\/127\.0\.0\.1:\d+/);
      expect(up.stdout()).toMatch(/mqtt: +mqtt:\/\/127\.0\.0\.1:\d+/);
      expect(up.stdout()).toContain('faas init hello');
      expect(existsSync(join(dir, 'site.json'))).toBe(true);
      expect((await processesOf(dir)).length).toBeGreaterThanOrEqual(2);
      up.signal('SIGTERM');
      expect(await up.exited).toEqual({ code: 0, signal: null });
      expect(await processesOf(dir)).toEqual([]);
      expect(existsSync(join(dir, 'site.json'))).toBe(false);
      const { code, stderr } = await faas(['invoke', 'hello', '--site', dir]);
      expect({ code, stderr }).toEqual({ code: 3, stderr: expect.stringContaining('faas up') });
    },
  );

  test.concurrent(
    '--websocket adds that listener, for pages of its own origin only; without it there is none',
    async () => {
      const without = await startSite();
      expect(without.info.websocket).toBeUndefined();
      const { info } = await startSite({ args: ['--websocket'] });
      const url = info.websocket!.url;
      const own = await wsconnect({ servers: url });
      await own.flush();
      await own.close();
      const opens = (origin: string): Promise<boolean> =>
        new Promise((resolve) => {
          const page = new WebSocket(url, { headers: { origin } });
          page.addEventListener('open', () => (page.close(), resolve(true)));
          page.addEventListener('error', () => resolve(false));
        });
      expect(await opens(url.replace('ws:', 'http:'))).toBe(true);
      expect(await opens('http://evil.example')).toBe(false);
    },
  );

  test.concurrent('a second one on the same folder refuses and names the first', async () => {
    const site = await startSite();
    const { code, stderr } = await faas(['up', '--dir', site.dir]);
    expect(code).toBe(3);
    expect(stderr).toContain(`process ${site.info.pid}`);
    expect(stderr).toContain(site.info.url);
    expect(site.process.running).toBe(true);
  });

  test.concurrent(
    'killed with all it holds, the next one brings the functions back and leaves nothing of the old',
    async ({ expect }) => {
      const first = await startSite();
      await first.ok(['deploy', await functionFolder('comes-back')]);
      process.kill(first.info.pid, 'SIGKILL');
      await first.process.exited;
      const second = await startSite({ dir: first.dir });
      const answer = async () =>
        (await second.faas(['invoke', 'comes-back', '-d', '{"name":"again"}'])).stdout;
      await expect.poll(answer, { timeout: 60_000 }).toContain('"again"');
      const hosts = (await processesOf(first.dir)).filter((line) => line.includes('host.json'));
      expect(hosts).toHaveLength(1);
      await second.process.stop();
      expect(await processesOf(first.dir)).toEqual([]);
    },
  );

  test
    .skipIf(otherNode === undefined)
    .concurrent('when its wrapper is killed it stops by itself', async ({ expect }) => {
      const site = await startSite({ node: otherNode!.path });
      expect(site.process.pid).not.toBe(site.info.pid);
      process.kill(site.process.pid, 'SIGKILL');
      await expect.poll(() => processesOf(site.dir), { timeout: 60_000 }).toEqual([]);
    });

  test.concurrent('a second signal makes it hurry', async () => {
    const site = await startSite();
    const source = `export const handler = () => {
      console.log('begun');
      return new Promise((resolve) => setTimeout(resolve, 100_000));
    };\n`;
    await site.ok(['deploy', await functionFolder('endless', '  timeoutSeconds: 120\n', source)]);
    const logs = await startProcess(process.execPath, [
      faasFile,
      'logs',
      'endless',
      '-f',
      '--site',
      site.dir,
    ]);
    const call = site.faas(['invoke', 'endless']);
    await logs.line(/begun/);
    const started = Date.now();
    process.kill(site.info.pid, 'SIGTERM');
    await new Promise((resolve) => setTimeout(resolve, 500));
    process.kill(site.info.pid, 'SIGTERM');
    await site.process.exited;
    expect(Date.now() - started).toBeLessThan(30_000);
    expect((await call).code).toBe(3);
    expect(await processesOf(site.dir)).toEqual([]);
  });

  test.concurrent('what runs may end when it is told to stop', async () => {
    const site = await startSite();
    const source = `export const handler = () => {
      console.log('begun');
      return new Promise((resolve) => setTimeout(() => resolve('done'), 3000));
    };\n`;
    await site.ok(['deploy', await functionFolder('patient', '', source)]);
    const logs = await startProcess(process.execPath, [
      faasFile,
      'logs',
      'patient',
      '-f',
      '--site',
      site.dir,
    ]);
    const call = site.faas(['invoke', 'patient']);
    await logs.line(/begun/);
    site.process.signal('SIGTERM');
    expect(await call).toMatchObject({ code: 0, stdout: '"done"\n' });
    expect(await site.process.exited).toEqual({ code: 0, signal: null });
  });

  test.concurrent(
    'credentials in an address end in a file for the owner alone, and nowhere else',
    async () => {
      const dir = join(await temporaryFolder(), '.atoll');
      const site = await startSite({
        dir,
        args: [
          '--nats',
          'nats://robot:s3cr3t-word@127.0.0.1:1',
          '--mqtt',
          'mqtt://m:s3cr3t-word@127.0.0.1:1',
        ],
      });
      expect(site.info.nats.url).toBe('nats://127.0.0.1:1');
      expect(site.info.mqtt?.url).toBe('mqtt://127.0.0.1:1');
      const holders: string[] = [];
      for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile()) continue;
        const path = join(entry.parentPath, entry.name);
        if ((await readFile(path, 'utf8')).includes('s3cr3t-word')) holders.push(path);
      }
      expect(holders.sort()).toEqual([join(dir, 'mqtt.json'), join(dir, 'nats.json')]);
      for (const path of holders) expect((await stat(path)).mode & 0o777).toBe(0o600);
      expect(site.process.output()).not.toContain('s3cr3t-word');
      expect(
        (await processesOf('s3cr3t-word')).filter((line) => line.includes(dir) && !line.includes('setpriv')),
      ).toEqual([]);
    },
  );

  test.concurrent(
    'starts while its broker is away, says so in the status, and recovers by itself',
    async () => {
      const broker = await startNats();
      await broker.stop();
      const site = await startSite({ args: ['--nats', broker.url] });
      const spec = '  triggers: [{ name: in, nats: { subject: late, reply: Always } }]\n';
      const folder = await functionFolder('late', spec);
      const { code, stderr } = await site.faas(['deploy', folder, '--timeout', '10']);
      expect(code).toBe(1);
      expect(stderr).toMatch(/NatsUnavailable|Connecting/);
      await broker.restart();
      expect(await site.ok(['deploy', folder])).toContain('ready');
    },
  );

  test.concurrent.each([
    ['--nats', 'http://somewhere'],
    ['--mqtt', 'nats://somewhere'],
    ['--s3', 'http://127.0.0.1:9000'],
    ['--s3', 'http://key:secret@127.0.0.1:9000/bucket'],
  ])('%s %s is a usage error', async (option, value) => {
    const dir = join(await temporaryFolder(), '.atoll');
    const { code, stderr } = await faas(['up', '--dir', dir, option, value]);
    expect(code).toBe(2);
    expect(stderr).toContain(option);
    expect(await processesOf(dir)).toEqual([]);
  });

  test.concurrent.each([
    [['--nats-ca', 'ca.pem'], '--nats-ca goes with --nats or $FAAS_NATS'],
    [['--mqtt', 'mqtt://a:1', '--mqtt-ca', 'ca.pem'], 'mqtts://'],
    [['--nats', 'tls://a:1', '--nats-cert', 'cert.pem'], '--nats-cert needs --nats-key'],
    [['--nats', 'tls://a:1', '--nats-ca', 'missing.pem'], 'missing.pem'],
    [['--nats', 'tls://me:secret@a:1', '--nats-creds', 'me.creds'], '--nats-creds'],
  ])('%j is a usage error', async (args, said) => {
    const dir = join(await temporaryFolder(), '.atoll');
    const { code, stderr } = await faas(['up', '--dir', dir, ...args]);
    expect(code).toBe(2);
    expect(stderr).toContain(said);
    expect(stderr).not.toContain('secret');
    expect(await processesOf(dir)).toEqual([]);
  });

  test.concurrent(
    'off loopback it asks for keys: without a file it does not start, with one the commands here go on',
    async () => {
      const refused = await faas([
        'up',
        '--dir',
        join(await temporaryFolder(), '.atoll'),
        '--host',
        '0.0.0.0',
      ]);
      expect(refused).toMatchObject({ code: 3, stderr: expect.stringContaining('keys') });
      const keys = join(await temporaryFolder(), 'keys');
      await writeFile(keys, '{"id":"ops","secret":"0123456789abcdef0123"}\n', { mode: 0o600 });
      const site = await startSite({ args: ['--host', '0.0.0.0', '--keys', keys] });
      await site.ok(['deploy', await functionFolder('guarded')]);
      expect(await site.ok(['invoke', 'guarded'])).toContain('nobody');
      const wrong = await site.faas(['invoke', 'guarded'], { env: { FAAS_KEY: 'ops.wrong' } });
      expect(wrong).toMatchObject({ code: 3, stderr: expect.stringContaining('FAAS_KEY') });
    },
  );
});

describe.skipIf(await missing('nats-server', 'versitygw'))('faas up --s3', () => {
  test('packages go into the bucket under their digest, once; the next start needs no credentials', async () => {
    const s3 = await startVersitygw();
    const url = `${s3.endpoint}/${s3.bucket}`;
    const env = { AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
    const first = await startSite({ args: ['--s3', url], env });
    const folder = await functionFolder('kept');
    const deploy = async () =>
      JSON.parse(await first.ok(['deploy', folder, '-o', 'json'])) as {
        uri: string;
        sha256: string;
        uploaded: boolean;
      }[];
    const [one] = await deploy();
    expect(one).toMatchObject({ uri: `s3://${s3.bucket}/packages/${one?.sha256}.tgz`, uploaded: true });
    const [two] = await deploy();
    expect(two).toMatchObject({ uploaded: false, changed: false });
    expect(first.process.output()).not.toContain(s3.secretAccessKey);
    expect((await stat(join(first.dir, 's3.json'))).mode & 0o777).toBe(0o600);
    await first.process.stop();
    const none = { AWS_ACCESS_KEY_ID: '', AWS_SECRET_ACCESS_KEY: '' };
    const second = await startSite({ dir: first.dir, args: ['--s3', url], env: none });
    const answer = async () => (await second.faas(['invoke', 'kept'])).stdout;
    await expect.poll(answer, { timeout: 60_000 }).toContain('nobody');
  });
});
