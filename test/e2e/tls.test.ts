import { chmod, copyFile, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, credsAuthenticator } from '@nats-io/transport-node';
import { connectAsync } from 'mqtt';
import { expect, test, vi } from 'vitest';
import { makeAuthority } from '../support/certificates.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startMosquitto } from '../support/mosquitto.ts';
import { makeAccounts } from '../support/nats-accounts.ts';
import { startNats } from '../support/nats.ts';
import { openJournal, recordModule } from './journal.ts';
import { describes, processNamed, startSite, until } from './site.ts';

vi.setConfig({ testTimeout: 180_000 });

const code = `
  import { record } from './record.ts';
  export const handler = async (event, { trigger }) => {
    record({ kind: trigger.kind });
    return 'heard';
  };`;

test.concurrent(
  'over TLS with certificates on both sides: NATS, JetStream and MQTT; one that nobody signed is not trusted',
  async () => {
    const authority = await makeAuthority();
    const [server, client] = [await authority.issue('server'), await authority.issue('robot')];
    const nats = await startNats({
      config: `tls { cert_file: "${server.certificate}", key_file: "${server.key}", ca_file: "${authority.ca}", verify: true }`,
    });
    const mosquitto = await startMosquitto({
      config: [
        `cafile ${authority.ca}`,
        `certfile ${server.certificate}`,
        `keyfile ${server.key}`,
        'require_certificate true',
      ].join('\n'),
    });
    const addresses = {
      nats: nats.url.replace('nats:', 'tls:'),
      mqtt: mosquitto.url.replace('mqtt:', 'mqtts:'),
    };
    const files = (ca: string, brokers: readonly string[] = ['nats', 'mqtt']): string[] =>
      brokers.flatMap((broker) => [
        ...[`--${broker}-ca`, ca, `--${broker}-cert`, client.certificate, `--${broker}-key`, client.key],
      ]);
    const tls = { caFile: authority.ca, certFile: client.certificate, keyFile: client.key };
    const nc = await connect({ servers: addresses.nats, tls });
    closeLater(() => nc.close());
    await (await jetstreamManager(nc)).streams.add({ name: 'TLS', subjects: ['tls.stream'] });

    const journal = await openJournal<{ kind: string }>();
    // The addresses by environment: there a password of theirs could be.
    const env = { FAAS_NATS: addresses.nats, FAAS_MQTT: addresses.mqtt };
    const site = await startSite({ args: files(authority.ca), env });
    await site.deploy({
      name: 'hears',
      spec: {
        env: [journal.env],
        triggers: [
          { name: 'plain', nats: { subject: 'tls.plain' } },
          { name: 'stream', jetstream: { stream: 'TLS', startAt: 'All' } },
          { name: 'topic', mqtt: { topic: 'tls/topic', qos: 1 } },
        ],
      },
      files: recordModule,
      code,
    });
    expect((await nc.request('tls.plain', '{}', { timeout: 10_000 })).json()).toBe('heard');
    await jetstream(nc).publish('tls.stream', '{}');
    const sender = await connectAsync(addresses.mqtt, {
      ca: await readFile(authority.ca),
      cert: await readFile(client.certificate),
      key: await readFile(client.key),
    });
    closeLater(() => sender.endAsync());
    await sender.publishAsync('tls/topic', '{}', { qos: 1 });
    await until(
      'all three came',
      () => new Set(journal.read().map(({ kind }) => kind)).size === 3 || undefined,
    );
    const healthy = await site.run(['doctor']);
    expect(healthy.stdout).toMatch(/✓ nats .*\n(.*\n)*✓ mqtt /);

    const stranger = await makeAuthority();
    await site.stop();
    await site.start({ args: files(stranger.ca), env });
    await describes(site, 'hears', /plain .* False .*certificate/i);
    await describes(site, 'hears', /topic .* False .*certificate/i);
    // A server that offers no TLS gets nothing, least of all a password.
    const plain = await startNats();
    await site.stop();
    await site.start({ args: ['--nats', plain.url.replace('nats://', 'tls://robot:s3cret@')] });
    await describes(site, 'hears', /plain .* False .*does not support 'tls'/);
  },
);

test.concurrent(
  'certificates renewed in place are used at the next connection, and nothing is started again',
  async () => {
    const folder = await temporaryFolder();
    const files = {
      server: {
        ca: join(folder, 'ca.crt'),
        certificate: join(folder, 'server.crt'),
        key: join(folder, 'server.key'),
      },
      site: {
        ca: join(folder, 'site-ca.crt'),
        certificate: join(folder, 'site.crt'),
        key: join(folder, 'site.key'),
      },
    };
    const renew = async (whose: keyof typeof files, by: Awaited<ReturnType<typeof makeAuthority>>) => {
      const { certificate, key } = await by.issue(whose);
      await copyFile(by.ca, files[whose].ca);
      await copyFile(certificate, files[whose].certificate);
      await copyFile(key, files[whose].key);
    };
    const before = await makeAuthority();
    await renew('server', before);
    await renew('site', before);
    const { ca, certificate, key } = files.server;
    const nats = await startNats({
      config: `tls { cert_file: "${certificate}", key_file: "${key}", ca_file: "${ca}", verify: true }`,
    });
    const mosquitto = await startMosquitto({
      config: `cafile ${ca}\ncertfile ${certificate}\nkeyfile ${key}\nrequire_certificate true`,
    });
    const site = await startSite({
      args: [
        ...['--nats', nats.url.replace('nats:', 'tls:'), '--mqtt', mosquitto.url.replace('mqtt:', 'mqtts:')],
        ...['nats', 'mqtt'].flatMap((broker) => [
          ...[`--${broker}-ca`, files.site.ca],
          ...[`--${broker}-cert`, files.site.certificate, `--${broker}-key`, files.site.key],
        ]),
      ],
    });
    const journal = await openJournal<{ kind: string }>();
    await site.deploy({
      name: 'hears',
      spec: {
        env: [journal.env],
        triggers: [
          { name: 'plain', nats: { subject: 'tls.plain' } },
          // Needs no JetStream, which is away as long as NATS is.
          { name: 'topic', mqtt: { topic: 'tls/topic', qos: 1, delivery: 'AtMostOnce' } },
        ],
      },
      files: recordModule,
      code,
    });
    await site.ready('hears');
    const processes = (): number[] => [site.info.pid, processNamed(site, 'runtime/main').pid];
    const running = processes();

    // Another authority: what the site has read before opens nothing there.
    const after = await makeAuthority();
    await renew('server', after);
    await Promise.all([nats.restart(), mosquitto.restart()]);
    await until('NATS refuses it', () => /TLS handshake error/.test(nats.output()) || undefined);
    await describes(site, 'hears', /plain .* False .*cannot be reached/);
    await describes(site, 'hears', /topic .* False .*certificate/i);

    await renew('site', after);
    await site.ready('hears');
    const nc = await connect({
      servers: nats.url.replace('nats:', 'tls:'),
      tls: { caFile: files.site.ca, certFile: files.site.certificate, keyFile: files.site.key },
    });
    closeLater(() => nc.close());
    expect((await nc.request('tls.plain', '{}', { timeout: 10_000 })).json()).toBe('heard');
    const sender = await connectAsync(mosquitto.url.replace('mqtt:', 'mqtts:'), {
      ca: await readFile(files.site.ca),
      cert: await readFile(files.site.certificate),
      key: await readFile(files.site.key),
    });
    closeLater(() => sender.endAsync());
    await sender.publishAsync('tls/topic', '{}', { qos: 1 });
    await until('both came', () => new Set(journal.read().map(({ kind }) => kind)).size === 2 || undefined);
    expect(processes()).toEqual(running);
  },
);

test.concurrent(
  "with a user's credentials file of a NATS server in operator mode, which appears nowhere else",
  async () => {
    const accounts = makeAccounts();
    const nats = await startNats({ config: accounts.config });
    const creds = join(await temporaryFolder(), 'robot.creds');
    await writeFile(creds, accounts.userOf('robot'), { mode: 0o600 });
    const [seed = ''] = /^SU\w+$/m.exec(await readFile(creds, 'utf8')) ?? [];
    expect(seed).toHaveLength(58);
    const site = await startSite({ args: ['--nats', nats.url, '--nats-creds', creds] });
    const triggers = [{ name: 'plain', nats: { subject: 'creds.plain' } }];
    const journal = await openJournal<{ kind: string }>();
    await site.deploy({ name: 'hears', spec: { env: [journal.env], triggers }, files: recordModule, code });
    const other = Buffer.from(accounts.userOf('other'));
    const nc = await connect({ servers: nats.url, authenticator: credsAuthenticator(other) });
    closeLater(() => nc.close());
    expect((await nc.request('creds.plain', '{}', { timeout: 10_000 })).json()).toBe('heard');
    // The inbox needs JetStream, which the account has.
    expect((await site.faas('invoke', 'hears', '--async', '-d', '{}')).stdout).not.toBe('');
    await until(
      'the stored event was handled',
      () => journal.read().some(({ kind }) => kind === 'invoke') || undefined,
    );

    for (const { pid, commandLine } of site.processes()) {
      expect(commandLine).not.toContain(seed);
      expect(await readFile(`/proc/${pid}/environ`, 'utf8')).not.toContain(seed);
    }
    for (const entry of await readdir(site.dir, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      expect(await readFile(join(entry.parentPath, entry.name), 'latin1')).not.toContain(seed);
    }

    // Renewed in place: the file is read again at the next connect.
    await writeFile(creds, accounts.userOf('robot'));
    await nats.restart();
    await site.ready('hears');
    await chmod(creds, 0o644);
    const open = await site.run([
      'up',
      '--dir',
      join(site.work, 'other'),
      '--nats',
      nats.url,
      '--nats-creds',
      creds,
    ]);
    expect(open).toMatchObject({ code: 2, stderr: expect.stringContaining(`chmod 600 ${creds}`) as string });
  },
);
