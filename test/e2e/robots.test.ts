import { readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { jetstream, StorageType } from '@nats-io/jetstream';
import { headers as newHeaders } from '@nats-io/nats-core';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import mqtt from 'mqtt';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import type { RobotPresence } from '../../controller/broker/presence.ts';
import { faas, faasFile, functionFolder, startSite, type TestSite } from '../cli/run.ts';
import { makeAuthority } from '../support/certificates.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { freePort } from '../support/ports.ts';
import { startProcess } from '../support/process.ts';
import { missing, requireTool } from '../support/requirement.ts';
import { managerOf, online, ours, program, robotArgs, startHub, until, type Hub } from './fleet.ts';

const skipped = await missing('nats-server');
vi.setConfig({ testTimeout: 180_000 });

/** As `programs.json` of a site has it. */
interface Login {
  readonly user: string;
  readonly pass: string;
}

describe.skipIf(skipped)('a hub and its robots', () => {
  let hub: Hub;
  const robots: Record<string, TestSite> = {};
  const files: Record<string, string> = {};
  let [atHub, atRobot1, atRobot2]: NatsConnection[] = [];

  beforeAll(async () => {
    hub = await startHub();
    for (const robot of ['robot1', 'robot2']) {
      files[robot] = await hub.add(robot);
      robots[robot] = await startSite({ args: robotArgs(robot, files[robot], hub.url) });
    }
    await Promise.all(['robot1', 'robot2'].map((robot) => online(hub, robot)));
    atHub = await ours(hub);
    atRobot1 = await ours(robots['robot1']!);
    atRobot2 = await ours(robots['robot2']!);
  });

  /** Of the test alone that asks for it. */
  async function another(robot: string): Promise<{ site: TestSite; file: string }> {
    const file = await hub.add(robot);
    const site = await startSite({ args: robotArgs(robot, file, hub.url) });
    await online(hub, robot);
    return { site, file };
  }

  test('are seen there, with address, round trip, lag and functions', async () => {
    const seen = await until('the round trip is known', async () =>
      (await hub.presence()).find(({ robot, rttMs }) => robot === 'robot1' && rttMs !== undefined),
    );
    expect(seen).toMatchObject({
      online: true,
      address: '127.0.0.1',
      lag: { messages: 0 },
      functions: { ready: 0, total: 0 },
      dropped: 0,
      keys: 1,
    });
    expect(Date.now() - Date.parse(seen.since!)).toBeLessThan(120_000);
    const [first] = JSON.parse(await hub.ok(['robots', '-o', 'json'])) as (typeof seen)[];
    expect(first).toMatchObject({ robot: 'robot1', online: true, address: '127.0.0.1', keys: 1 });
    const table = await hub.ok(['robots']);
    expect(table).toMatch(/^robot1 +online +\d+m?s? .*127\.0\.0\.1 +[\d.]+ ms +0 \(0 s\) +0 +0\/0$/m);
    expect(await hub.ok(['robot', 'list'])).toMatch(/^robot2 .* U[A-Z2-7]{55}$/m);
  });

  test("the hub's metrics tell of each link", async () => {
    const text = await until('the round trip is known', async () => {
      const all = await (await fetch(`${hub.info.url}/metrics`)).text();
      return all.includes('atoll_robot_round_trip_seconds{robot="robot2"}') ? all : undefined;
    });
    const value = (name: string): number =>
      Number(new RegExp(`^atoll_robot_${name}\\{robot="robot2"\\} (.*)$`, 'm').exec(text)?.[1]);
    expect(value('connected')).toBe(1);
    expect(value('round_trip_seconds')).toBeGreaterThan(0);
    expect(value('round_trip_seconds')).toBeLessThan(1);
    expect(value('lag_messages')).toBe(0);
    expect(value('functions')).toBe(0);
  });

  test('private keys are with the robot alone, and nobody else may read the files', async () => {
    const secrets = JSON.parse(await readFile(files['robot1']!, 'utf8')) as Record<string, string>;
    expect((await stat(files['robot1']!)).mode & 0o777).toBe(0o600);
    for (const site of [hub, robots['robot1']!, robots['robot2']!]) {
      for (const entry of await readdir(site.dir, { recursive: true, withFileTypes: true })) {
        const path = join(entry.parentPath, entry.name);
        if (!entry.isFile()) continue;
        const text = await readFile(path, 'latin1');
        const holds = text.includes(secrets['link']!) || text.includes(secrets['claim']!);
        const own = path === join(robots['robot1']!.dir, 'nats', 'nats-server.conf');
        expect(holds && !own ? path : undefined).toBeUndefined();
        if (holds || /password/.test(text)) expect((await stat(path)).mode & 0o077).toBe(0);
      }
    }
  });

  test('nobody is let in at NATS or MQTT without a password', async () => {
    for (const { info } of [hub, robots['robot1']!]) {
      await expect(connect({ servers: info.nats.url, reconnect: false })).rejects.toThrow(/auth/i);
      const anonymous = mqtt.connectAsync(info.mqtt!.url, { protocolVersion: 4, reconnectPeriod: 0 });
      await expect(anonymous).rejects.toThrow(/[Nn]ot authorized/);
    }
  });

  test('what a robot keeps is at the hub once and in order', async () => {
    const stream = jetstream(await program(robots['robot1']!));
    for (let number = 1; number <= 500; number += 1) {
      await stream.publish('robots.robot1.kept.odom', String(number), { msgID: `robot1-odom-${number}` });
    }
    const manager = await managerOf(atHub!);
    const has = await until('the hub has all', async () => {
      const { state } = await manager.streams.info('TELEMETRY');
      return state.messages >= 500 ? state.messages : undefined;
    });
    expect(has).toBe(500);
    const got: string[] = [];
    for (let seq = 1; seq <= 500; seq += 1) {
      got.push((await manager.streams.getMessage('TELEMETRY', { seq }))!.string());
    }
    expect(got).toEqual(Array.from({ length: 500 }, (_, index) => String(index + 1)));
    expect((await manager.streams.info('TELEMETRY')).config.subjects).toBeUndefined();
    const lag = async () => (await hub.presence()).find(({ robot }) => robot === 'robot1')?.lag;
    await expect.poll(lag, { timeout: 60_000 }).toEqual({ messages: 0, seconds: 0 });
    const { lastTelemetry } = (await hub.presence()).find(({ robot }) => robot === 'robot1')!;
    expect(Date.now() - Date.parse(lastTelemetry!)).toBeLessThan(60_000);
    expect(await hub.ok(['robots'])).toMatch(/^robot1 .* 0 +\d+m?s? +0\/0$/m);
  });

  test('what each of them has is seen: functions, lag in messages and seconds, the newest, and nothing that was only replaced as dropped', async () => {
    const { site } = await another('watched');
    const seen = async () => (await hub.presence()).find(({ robot }) => robot === 'watched')!;
    expect((await seen()).lastTelemetry).toBeUndefined();
    await site.ok(['deploy', await functionFolder('greeter')]);
    await expect
      .poll(async () => (await seen()).functions, { timeout: 60_000 })
      .toEqual({ ready: 1, total: 1 });
    const told = new Set<string | undefined>();
    for (let asked = 0; asked < 10; asked += 1) told.add((await seen()).since);
    expect(told.size).toBe(1);

    const stream = jetstream(await program(site));
    const manager = await managerOf(atHub!);
    let number = 0;
    const behind = await until('the hub is behind', async () => {
      // The hub follows again by itself what it finds not followed.
      const { config } = await manager.streams.info('TELEMETRY');
      const sources = config.sources?.filter(({ external }) => external?.api !== '$JS.watched.API') ?? [];
      if (sources.length !== config.sources?.length) {
        await manager.streams.update('TELEMETRY', { ...config, sources });
      }
      number += 1;
      const ring = newHeaders();
      ring.set('Nats-Rollup', 'sub');
      await stream.publish('robots.watched.kept.diagnostics.0', `${number}`, { headers: ring });
      await stream.publish('robots.watched.kept.odom', `${number}`);
      const now = await seen();
      return now.lag!.messages > 1 && now.lag!.seconds > 0.5 ? now : undefined;
    });
    expect(behind.lag!.messages).toBeLessThanOrEqual(2 * number);
    for (const topic of ['diagnostics.0', 'odom']) {
      const newest = { last_by_subj: `robots.watched.kept.${topic}` };
      await until('the hub has all', async () => {
        const stored = await manager.streams.getMessage('TELEMETRY', newest);
        return stored?.string() === `${number}` || undefined;
      });
    }
    await expect
      .poll(async () => (await seen()).lag, { timeout: 60_000 })
      .toEqual({ messages: 0, seconds: 0 });
    const after = await seen();
    expect(after).toMatchObject({ online: true, dropped: 0 });
    expect(Date.now() - Date.parse(after.lastTelemetry!)).toBeLessThan(60_000);

    const command = [faasFile, 'robots', '--watch', '-o', 'json', '--site', hub.dir];
    const watching = await startProcess(process.execPath, command, { name: 'faas robots --watch' });
    await watching.until('it told twice', async () => watching.stdout().split('\n').length > 2 || undefined);
    for (const line of watching.stdout().split('\n').slice(0, 2)) {
      const robot = (JSON.parse(line) as RobotPresence[]).find((one) => one.robot === 'watched');
      expect(robot).toMatchObject({ online: true, functions: { ready: 1, total: 1 } });
    }
    await watching.stop();
    await site.process.stop();
    const gone = await until('it is offline', async () => {
      const now = await seen();
      return now.online ? undefined : now;
    });
    expect(gone.lag).toMatchObject({ messages: 0 });
    expect(gone.lag!.seconds).toBeGreaterThan(1);
    await until('the hub asks for it no more', async () => {
      const { config } = await manager.streams.info('TELEMETRY');
      const apis = config.sources?.map(({ external }) => external?.api);
      return apis?.includes('$JS.robot1.API') === true && !apis.includes('$JS.watched.API')
        ? true
        : undefined;
    });
    expect(await hub.ok(['robots'])).toMatch(/^watched +offline /m);
  });

  test('a device at the MQTT of a robot is heard at the hub under the subjects of its robot, and hears those only', async () => {
    const login = async ({ dir }: TestSite) => {
      const { user, pass } = JSON.parse(await readFile(join(dir, 'programs.json'), 'utf8')) as Login;
      return { username: user, password: pass };
    };
    const { info } = robots['robot1']!;
    const device = await mqtt.connectAsync(info.mqtt!.url, {
      protocolVersion: 4,
      ...(await login(robots['robot1']!)),
    });
    closeLater(() => device.endAsync());
    const told: string[] = [];
    device.on('message', (topic) => void told.push(topic));
    await device.subscribeAsync(['robots/#', 'other/#'], { qos: 1 });

    const heard: string[] = [];
    const listeners = ['robots.>', 'other.>'].map((subject) =>
      atHub!.subscribe(subject, {
        callback: (_error, { subject: from }) => {
          // What others here tell of themselves is heard, too.
          if (from.endsWith('.mqtt')) heard.push(from);
        },
      }),
    );
    await atHub!.flush();
    const foreignTopics = ['robots/robot2/live/mqtt', 'robots/robot2/cmd/mqtt', 'other/mqtt'];
    await until('the hub hears the device', async () => {
      for (const topic of [...foreignTopics, 'robots/robot1/live/mqtt']) {
        await device.publishAsync(topic, 'x', { qos: 1 });
      }
      return heard.includes('robots.robot1.live.mqtt') || undefined;
    });
    for (const last of ['robots/robot1/cmd/mqtt', 'robots/robot1/cmd/last']) {
      await until(`the device hears ${last}`, async () => {
        for (const subject of ['robots.robot2.cmd.mqtt', 'other.mqtt.hub']) atHub!.publish(subject, 'x');
        atHub!.publish(last.replaceAll('/', '.'), 'x');
        return told.includes(last) || undefined;
      });
    }
    for (const listener of listeners) listener.unsubscribe();
    // What it published itself is its own broker's to give.
    const own = [...foreignTopics, 'robots/robot1/live/mqtt'];
    const come = [...new Set(told)].filter((topic) => !own.includes(topic) && !topic.includes('/stats/'));
    expect(come.sort()).toEqual(['robots/robot1/cmd/last', 'robots/robot1/cmd/mqtt']);
    expect([...new Set(heard)].sort()).toEqual([
      'robots.robot1.cmd.mqtt',
      'robots.robot1.live.mqtt',
      'robots.robot2.cmd.mqtt',
    ]);
    const reserved = mqtt.connectAsync(info.mqtt!.url, {
      protocolVersion: 4,
      reconnectPeriod: 0,
      ...(await login(robots['robot2']!)),
    });
    await expect(reserved).rejects.toThrow(/[Nn]ot authorized/);
  });

  test('a function of a robot reaches what its permissions name, and without them nothing', async () => {
    const { site: robot } = await another('robot9');
    const source = `
      import { nats } from 'atoll';
      export const handler = async ({ subjects }: { subjects: string[] }) =>
        await Promise.all(subjects.map((subject) =>
          nats.publish(subject, 'x', { msgId: 'robot9-' + subject })
            .then(() => 'stored', ({ code, message }) => code + ': ' + message)));`;
    await robot.ok(['deploy', await functionFolder('silent', '', source)]);
    const permissions = '  permissions: { publish: [robots.robot9.kept.>] }\n';
    await robot.ok(['deploy', await functionFolder('speaks', permissions, source)]);
    const subjects = ['robots.robot9.kept.odom', 'robots.robot1.kept.odom', 'atoll.robot9.inbox.a.b.c'];
    const ask = async (name: string): Promise<string[]> =>
      JSON.parse(await robot.ok(['invoke', name, '-d', JSON.stringify({ subjects })])) as string[];
    expect(await ask('silent')).toEqual([
      expect.stringContaining('NotAllowed: nats.publish robots.robot9.kept.odom: here a function without'),
      expect.stringContaining('add "robots.robot1.kept.odom" to spec.permissions.publish'),
      expect.stringContaining('of NATS or Atoll itself'),
    ]);
    expect(await ask('speaks')).toEqual([
      'stored',
      expect.stringContaining('NotAllowed: nats.publish robots.robot1.kept.odom: spec.permissions.publish'),
      expect.stringContaining('of NATS or Atoll itself'),
    ]);
    const { state } = await (await managerOf(await ours(robot))).streams.info('TELEMETRY');
    expect(state.messages).toBe(1);
  });

  /**
   * What of these subjects, published at one end, is heard at the other until the last of them was heard, at the other
   * end or where it is known to come, and half a second more.
   */
  async function crossing(
    from: NatsConnection,
    to: NatsConnection,
    subjects: readonly string[],
    listenTo: readonly string[],
    knownAt: NatsConnection = to,
  ): Promise<string[]> {
    const token = crypto.randomUUID();
    const heard = new Set<string>();
    const last = subjects.at(-1)!;
    const subscriptions = listenTo.map((subject) =>
      to.subscribe(subject, {
        callback: (error, message) => {
          if (error === null && message.string() === token) heard.add(message.subject);
        },
      }),
    );
    const known = knownAt.subscribe(last);
    await Promise.all([to.flush(), knownAt.flush()]);
    // Interest takes its time to the other server, so it is said again.
    const say = (): void => {
      for (const subject of subjects) from.publish(subject, token);
    };
    try {
      await until(`${last} comes`, async () => (say(), known.getReceived() > 0 || undefined), 15_000);
      say();
      await new Promise((done) => setTimeout(done, 500));
    } finally {
      for (const subscription of [...subscriptions, known]) subscription.unsubscribe();
    }
    return [...heard].sort();
  }

  const foreign = [
    ...[
      'other',
      'a.b',
      'atoll.hub.inbox.default.f.t',
      'atoll.robot1.inbox.default.f.t',
      'robots',
      'robots.robot1',
    ],
    ...[
      'robots.robot2.kept.odom',
      'robots.robot2.cmd.go',
      'robots.robot11.live.x',
      '$aws.things.robot2.jobs',
    ],
    ...['$KV.ATOLL_STATE.x', '$KV.ATOLL_ROBOTS.robot2', '$O.files.x', '$JS.S.robot2.x', '$JS.ACK.x'],
    ...['_INBOX.robot2.x', '$SRV.PING', '$MQTT.msgs.x', '$JS.EVENT.ADVISORY.x', 'sensor.temperature'],
  ];
  const own = ['$aws.things.robot1', '$aws.things.robot1.jobs.get', 'robots.robot1.live.scan'];

  test('nothing but its own subjects comes from a robot', async () => {
    const heard = await crossing(
      atRobot1!,
      atHub!,
      [...foreign, '_INBOX.robot1.x', '$JS.robot1.API.INFO.x', '$JS.FC.x', '_INBOX.hub.x', ...own],
      ['>', '$aws.>', '$JS.>', '$KV.>', '_INBOX.>', '$SRV.>', '$MQTT.msgs.>', ...foreign],
    );
    expect(heard).toEqual(['_INBOX.hub.x', ...own].sort());
  });

  test('nothing but its own subjects goes to a robot, and it cannot listen to another', async () => {
    const heard = await crossing(
      atHub!,
      atRobot1!,
      [...foreign, '_INBOX.hub.x', '_INBOX.robot1.x', ...own],
      ['>', 'robots.>', 'robots.*.cmd.>', '_INBOX.>', '$aws.things.>', ...foreign, '_INBOX.robot1.*', ...own],
    );
    expect(heard).toEqual(['_INBOX.robot1.x', ...own].sort());
    const between = await crossing(
      atRobot2!,
      atRobot1!,
      ['robots.robot1.cmd.go', 'robots.robot2.live.scan', 'other', 'robots.robot2.live.last'],
      ['robots.>', 'robots.robot2.live.scan', 'robots.robot2.live.last', 'other', 'robots.robot1.cmd.go'],
      atHub!,
    );
    expect(between).toEqual([]);
  });

  test('a robot reaches JetStream of the hub or of another robot by no name', async () => {
    const asked = ['STREAM.LIST', 'STREAM.DELETE.TELEMETRY', 'STREAM.INFO.KV_ATOLL_ROBOTS', 'INFO'].flatMap(
      (question) => [`$JS.hub.API.${question}`, `$JS.robot2.API.${question}`],
    );
    const claims = ['$JS.hub.API.$KV.ATOLL_ROBOTS.robot2', '$JS.hub.API.$KV.ATOLL_STATE.x'];
    for (const subject of [...asked, ...claims]) {
      await expect(atRobot1!.request(subject, '', { timeout: 1_000 }), subject).rejects.toThrow(
        /no responders|timeout/,
      );
    }
    // The other way round it is what the hub follows the robot by.
    const answer = await atHub!.request('$JS.robot1.API.STREAM.INFO.TELEMETRY', '', { timeout: 5_000 });
    expect(answer.json<{ config: { name: string } }>().config.name).toBe('TELEMETRY');
    expect((await (await managerOf(atRobot2!)).streams.info('TELEMETRY')).config.name).toBe('TELEMETRY');
  });

  test("a robot's program cannot touch what is ours", async () => {
    const programs = await program(robots['robot1']!);
    for (const subject of ['$JS.API.STREAM.DELETE.TELEMETRY', '$JS.API.STREAM.PURGE.ATOLL_INBOX']) {
      await expect(programs.request(subject, '', { timeout: 2_000 })).rejects.toThrow(/[Pp]ermission/);
    }
    const manager = await managerOf(programs);
    await manager.streams.add({ name: 'MINE', subjects: ['mine'], storage: StorageType.Memory });
    expect((await jetstream(programs).publish('mine', 'x')).stream).toBe('MINE');
  });

  const addresses = (): string[] =>
    Object.values(networkInterfaces())
      .flatMap((all) => all ?? [])
      .filter(({ family, internal }) => family === 'IPv4' && !internal)
      .map(({ address }) => address);

  test('of two that claim one id the second is not let in and names the first, until that one stops', async () => {
    const before = addresses();
    const { site: first, file } = await another('claimed');
    const second = await startSite({ args: robotArgs('claimed', file, hub.url) });
    const refusal = await second.process.line(/no link to the hub: \\"claimed\\" is in use by /);
    expect(refusal).toContain(hostname());
    // Tests beside this one have networks that come and go.
    for (const address of addresses().filter((one) => before.includes(one))) {
      expect(refusal).toContain(address);
    }
    const since = (await hub.presence()).find(({ robot }) => robot === 'claimed')!.since;
    const there = await program(second);
    await jetstream(there).publish('robots.claimed.kept.impostor', 'not yet');
    expect((await hub.presence()).find(({ robot }) => robot === 'claimed')).toMatchObject({ online: true });
    expect((await hub.presence()).find(({ robot }) => robot === 'claimed')!.since).toBe(since);
    await first.process.stop();
    await second.process.line(/the link to the hub is open/);
    await online(hub, 'claimed');
  });

  test('keys are exchanged while the robot works, and those before end when they are told to', async () => {
    const { site } = await another('rotated');
    const fresh = join(await temporaryFolder(), 'fresh.json');
    await hub.ok(['robot', 'rotate', 'rotated', '--out', fresh]);
    expect((await hub.presence()).find(({ robot }) => robot === 'rotated')).toMatchObject({
      online: true,
      keys: 2,
    });
    await site.process.stop();
    const renewed = await startSite({ dir: site.dir, args: robotArgs('rotated', fresh, hub.url) });
    await renewed.process.line(/the link to the hub is open/);
    await online(hub, 'rotated');
    const newest = join(await temporaryFolder(), 'newest.json');
    await hub.ok(['robot', 'rotate', 'rotated', '--out', newest, '--keep', '0s']);
    await until('the link is ended', async () =>
      (await hub.presence()).find(({ robot, online: is }) => robot === 'rotated' && !is),
    );
  });

  test('keys that were exchanged in their file are taken over without a restart, and nothing that is kept is lost', async () => {
    const { site, file } = await another('renewed');
    const stream = jetstream(await program(site));
    let number = 0;
    let working = true;
    // No message is sent twice: none may fail.
    const work = (async () => {
      for (; working; await pause(20)) {
        number += 1;
        await stream.publish('robots.renewed.kept.odom', `${number}`, { timeout: 20_000 });
      }
    })();
    work.catch(() => {});
    const live = await liveCount(site, 'renewed');
    let awayMs = 0;
    let onlineAt = performance.now();
    const looking = (async () => {
      for (; working; await pause(100)) {
        const { online: is } = (await hub.presence()).find(({ robot }) => robot === 'renewed')!;
        if (is) onlineAt = performance.now();
        awayMs = Math.max(awayMs, performance.now() - onlineAt);
      }
    })();
    looking.catch(() => {});
    const { link: before } = JSON.parse(await readFile(file, 'utf8')) as { link: string };
    await hub.ok(['robot', 'rotate', 'renewed', '--out', file, '--keep', '8s']);
    await site.process.line(/was given new keys/);
    await until('the keys before are over', async () =>
      (await hub.presence()).find(({ robot, keys }) => robot === 'renewed' && keys === 1),
    );
    const then = number;
    await until('it works on', async () => (number > then + 20 ? true : undefined));
    await live.comesAgain();
    working = false;
    await Promise.all([work, looking]);
    const { gapMs, missing: lost } = live.end();
    process.stderr.write(
      `keys exchanged: of what is live ${lost} of 100 a second lost, none for ${gapMs} ms\n`,
    );
    // Each of its two links is opened anew, and once more when the keys before are over.
    expect(gapMs).toBeLessThan(10_000);
    expect(lost).toBeLessThan(1_000);
    await until('the hub has all', async () => (await keptCount('renewed')) >= number || undefined);
    // It is told to be away after 5 s; its links are closed for less than one.
    expect(awayMs).toBeLessThan(10_000);
    expect(await keptBy('renewed')).toEqual(Array.from({ length: number }, (_, index) => `${index + 1}`));
    expect(await readFile(join(site.dir, 'nats', 'nats-server.conf'), 'utf8')).not.toContain(before);
    // A file of somebody else, or half of one, changes nothing.
    await writeFile(file, '{"robot"', { mode: 0o600 });
    await site.process.line(/the file of the robot changes nothing/);
    await stream.publish('robots.renewed.kept.odom', 'one more');
    await until('it comes', async () => (await keptCount('renewed')) === number + 1 || undefined);
  });

  /** Live messages of a robot, 100 a second, and what of them the hub hears from the first that it heard on. */
  async function liveCount(
    site: TestSite,
    robot: string,
  ): Promise<{ comesAgain(): Promise<void>; end(): { gapMs: number; missing: number } }> {
    const there = await program(site);
    const subject = `robots.${robot}.live.count`;
    let [first, last, received, gapMs, lastMs] = [0, 0, 0, 0, 0];
    const heard = atHub!.subscribe(subject, {
      callback: (_error, message) => {
        const now = performance.now();
        last = Number(message.string());
        if (received === 0) first = last;
        else gapMs = Math.max(gapMs, now - lastMs);
        [received, lastMs] = [received + 1, now];
      },
    });
    await atHub!.flush();
    let sent = 0;
    const ticking = setInterval(() => there.publish(subject, `${(sent += 1)}`), 10);
    closeLater(async () => clearInterval(ticking));
    const comesAgain = async (): Promise<void> => {
      const then = sent;
      await until('what is live comes', async () => (last > then + 20 ? true : undefined));
    };
    await comesAgain();
    return {
      comesAgain,
      end() {
        clearInterval(ticking);
        heard.unsubscribe();
        return { gapMs: Math.round(gapMs), missing: last - first + 1 - received };
      },
    };
  }

  test('of a robot that crashed another machine has the id after 15 s, and with its new disk nothing is lost or doubled', async () => {
    const { site: first, file } = await another('replaced');
    const keep = async (site: TestSite, from: number, to: number): Promise<void> => {
      const stream = jetstream(await program(site));
      for (let number = from; number <= to; number += 1) {
        // It begins with the same ids again, as its program does, too.
        const msgID = `replaced-${(number - 1) % 20}`;
        await stream.publish('robots.replaced.kept.odom', `${number}`, { msgID });
      }
    };
    await keep(first, 1, 20);
    await until('the hub has all', async () => ((await keptBy('replaced')).length === 20 ? true : undefined));
    first.process.signal('SIGKILL');
    await first.process.exited;
    const since = performance.now();
    const second = await startSite({ args: robotArgs('replaced', file, hub.url) });
    await second.process.line(/no link to the hub: \\"replaced\\" is in use by /);
    // Fewer than before, so that the numbers of its stream are all below.
    await until('its stream is there', async () =>
      keep(second, 21, 30).then(
        () => true,
        () => undefined,
      ),
    );
    await second.process.line(/the link to the hub is open/, 60_000);
    const tookMs = performance.now() - since;
    process.stderr.write(`an id whose robot crashed was another's after ${Math.round(tookMs)} ms\n`);
    expect(tookMs).toBeGreaterThan(8_000);
    expect(tookMs).toBeLessThan(60_000);
    await online(hub, 'replaced');
    await hub.process.line(/the robot keeps its messages in another stream than before/);
    await until('the hub has all', async () => ((await keptBy('replaced')).length >= 30 ? true : undefined));
    await keep(second, 31, 35);
    await until('the hub has all', async () => ((await keptBy('replaced')).length >= 35 ? true : undefined));
    expect(await keptBy('replaced')).toEqual(Array.from({ length: 35 }, (_, index) => `${index + 1}`));
    const lag = async () => (await hub.presence()).find(({ robot }) => robot === 'replaced')?.lag;
    await expect.poll(lag, { timeout: 60_000 }).toEqual({ messages: 0, seconds: 0 });
  });

  async function keptCount(robot: string): Promise<number> {
    const filter = { subjects_filter: `robots.${robot}.>` };
    const { state } = await (await managerOf(atHub!)).streams.info('TELEMETRY', filter);
    return Object.values(state.subjects ?? {}).reduce((sum, count) => sum + count, 0);
  }

  /** The texts of what the hub has of it, in order. */
  async function keptBy(robot: string): Promise<string[]> {
    const manager = await managerOf(atHub!);
    const { state } = await manager.streams.info('TELEMETRY');
    const texts: string[] = [];
    for (let seq = state.first_seq; seq <= state.last_seq; seq += 1) {
      const message = await manager.streams.getMessage('TELEMETRY', { seq });
      if (message?.subject.startsWith(`robots.${robot}.`)) texts.push(message.string());
    }
    return texts;
  }

  test('a robot that was removed is out at once, and works on', async () => {
    const { site } = await another('removed');
    const there = await ours(site);
    const heard = atHub!.subscribe('robots.removed.live.count');
    await atHub!.flush();
    let sent = 0;
    const ticking = setInterval(() => there.publish('robots.removed.live.count', `${(sent += 1)}`), 10);
    closeLater(async () => clearInterval(ticking));
    await until('it is heard', async () => heard.getReceived() > 10 || undefined);
    await hub.ok(['robot', 'remove', 'removed']);
    // What the hub heard before is here with the answer.
    await atHub!.flush();
    const [received, sentThen] = [heard.getReceived(), sent];
    expect((await hub.presence()).map(({ robot }) => robot)).not.toContain('removed');
    // For three seconds: a link that was only cut would be there again after one.
    await until('the robot went on', async () => sent > sentThen + 300 || undefined);
    await there.flush();
    expect(heard.getReceived()).toBe(received);
    expect((await jetstream(there).publish('robots.removed.kept.after', 'x')).stream).toBe('TELEMETRY');
    expect((await faas(['robot', 'remove', 'removed', '--site', hub.dir])).stderr).toContain(
      'no robot "removed"',
    );
  });
});

describe.skipIf(skipped)('a robot', () => {
  // Each of these has a hub of its own and mostly waits: they do it at the same time.

  test.concurrent('starts and works while its hub is down, and is followed once that is there', async () => {
    const hub = await startHub();
    const file = await hub.add('robot1');
    await hub.process.stop();
    const robot = await startSite({ args: robotArgs('robot1', file, hub.url) });
    const programs = await program(robot);
    await until('its stream is there', async () =>
      jetstream(programs)
        .publish('robots.robot1.kept.early', 'kept')
        .catch(() => undefined),
    );
    const { user, pass } = JSON.parse(await readFile(join(robot.dir, 'programs.json'), 'utf8')) as {
      user: string;
      pass: string;
    };
    const device = await mqtt.connectAsync(robot.info.mqtt!.url, {
      protocolVersion: 4,
      username: user,
      password: pass,
    });
    closeLater(() => device.endAsync());
    const heard = programs.subscribe('lab.door', { max: 1 });
    await programs.flush();
    await device.publishAsync('lab/door', 'open', { qos: 1 });
    for await (const message of heard) expect(message.string()).toBe('open');
    const again = await startHub({ dir: hub.dir, args: hub.args });
    await online(again, 'robot1');
    const manager = await managerOf(await ours(again));
    const early = await until('the hub has it', async () =>
      manager.streams.getMessage('TELEMETRY', { last_by_subj: 'robots.robot1.kept.early' }).then(
        (message) => message ?? undefined,
        () => undefined,
      ),
    );
    expect(early.string()).toBe('kept');
  });

  test.concurrent.each(['tls', 'wss'])(
    'comes in over %s, and only to a hub with the right certificate',
    async (scheme) => {
      const authority = await makeAuthority();
      const { certificate, key } = await authority.issue('hub');
      const [leaf, websocket] = [String(await freePort()), String(await freePort())];
      const ports = ['--leaf-port', leaf, '--websocket', '--websocket-port', websocket];
      const hub = await startHub({
        args: ['--control', ...ports, '--tls-cert', certificate, '--tls-key', key],
      });
      const url = `${scheme}://127.0.0.1`;
      const trusting = await hub.add('robot1', ['--ca', authority.ca]);
      const robot1 = await startSite({ args: robotArgs('robot1', trusting, url) });
      await robot1.process.line(/the link to the hub is open/);
      await online(hub, 'robot1');
      await carriesMessages(hub, robot1);
      const other = await makeAuthority();
      const wary = await hub.add('robot2', ['--ca', other.ca]);
      const robot2 = await startSite({ args: robotArgs('robot2', wary, url) });
      await robot2.process.line(/certificate/);
      expect((await hub.presence()).find(({ robot }) => robot === 'robot2')).toMatchObject({ online: false });
    },
    120_000,
  );
});

/** Kept and live ones of robot1 come to its hub, once, in order and whole, and a command goes the other way. */
async function carriesMessages(hub: Hub, robot1: TestSite): Promise<void> {
  const [atHub, atRobot] = [await ours(hub), await program(robot1)];
  // Several frames of a WebSocket, and of TLS anyway.
  const large = Buffer.from(Uint8Array.from({ length: 2_000_000 }, (_, index) => index % 251));
  let whole = 0;
  atHub.subscribe('robots.robot1.live.image', {
    callback: (_error, { data }) => void (whole += Buffer.compare(data, large) === 0 ? 1 : 0),
  });
  const told = atRobot.subscribe('robots.robot1.cmd.go');
  await Promise.all([atHub.flush(), atRobot.flush()]);
  // Interest takes its time to the other server, so that what is not kept is said again.
  await until('an image comes', async () => {
    atRobot.publish('robots.robot1.live.image', large);
    await atRobot.flush();
    return whole > 0 ? true : undefined;
  });
  await until('the robot is told', async () => {
    atHub.publish('robots.robot1.cmd.go');
    await atHub.flush();
    return told.getReceived() > 0 ? true : undefined;
  });

  const stream = jetstream(atRobot);
  const sent = Array.from({ length: 200 }, (_, index) => `${index + 1}`);
  for (const number of sent) await stream.publish('robots.robot1.kept.odom', number);
  const { streams } = await managerOf(atHub);
  const stored = await until('the hub has all', async () => {
    const { state } = await streams.info('TELEMETRY');
    return state.messages >= sent.length ? state : undefined;
  });
  const got: string[] = [];
  for (let seq = stored.first_seq; seq <= stored.last_seq; seq += 1) {
    got.push((await streams.getMessage('TELEMETRY', { seq }))!.string());
  }
  expect(got).toEqual(sent);
}

test.skipIf(skipped)(
  'nats-servers that run elsewhere have the link, and nothing but its own crosses it, by the configurations that are printed',
  async () => {
    const folder = await temporaryFolder();
    const hubDir = join(folder, 'hub');
    const robotDir = join(folder, 'robot1');
    const file = join(folder, 'robot1.json');
    const leaf = String(await freePort());
    const ok = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await faas(args);
      expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
      return stdout;
    };
    const control = ['up', '--control', '--dir', hubDir, '--leaf-port', leaf, '--print-config'];
    expect(await ok(...control)).not.toContain('nkey');
    await ok('robot', 'add', 'robot1', '--site', hubDir, '--out', file);
    const at = ['--dir', robotDir, '--print-config'];
    const link = [...robotArgs('robot1', file, `nats://127.0.0.1:${leaf}`), ...at];

    /** As printed, but for the ports of clients, which others have here. */
    async function run(name: string, printed: string): Promise<string> {
      const nats = String(await freePort());
      const ports = printed
        .replace(/^port: 4222$/m, `port: ${nats}`)
        .replace(/^ {2}port: 1883$/m, `  port: ${await freePort()}`);
      expect(ports).not.toMatch(/4222|1883/);
      const path = join(folder, `${name}.conf`);
      await writeFile(path, ports, { mode: 0o600 });
      const server = await startProcess(await requireTool('nats-server'), ['--config', path], { name });
      await server.line(/Server is ready/);
      return `nats://127.0.0.1:${nats}`;
    }
    const urls = { [hubDir]: await run('hub', await ok(...control)), [robotDir]: '' };
    urls[robotDir] = await run('robot1', await ok('up', ...link));
    const [atHub, atRobot] = (await Promise.all(
      [hubDir, robotDir].map(async (dir) => {
        const { user, pass } = JSON.parse(await readFile(join(dir, 'programs.json'), 'utf8')) as Login;
        const connection = await connect({ servers: urls[dir]!, user, pass });
        closeLater(() => connection.close());
        return connection;
      }),
    )) as [NatsConnection, NatsConnection];
    await expect(connect({ servers: urls[hubDir]!, reconnect: false })).rejects.toThrow(/auth/i);

    const heard = { atHub: new Set<string>(), atRobot: new Set<string>() };
    atHub.subscribe('>', { callback: (_error, { subject }) => void heard.atHub.add(subject) });
    atRobot.subscribe('>', { callback: (_error, { subject }) => void heard.atRobot.add(subject) });
    await until('each hears the other', async () => {
      for (const subject of ['robots.robot2.live.up', 'up', 'robots.robot1.live.up'])
        atRobot.publish(subject);
      for (const subject of ['robots.robot2.cmd.down', 'down', 'robots.robot1.cmd.down']) {
        atHub.publish(subject);
      }
      await Promise.all([atHub.flush(), atRobot.flush()]);
      return (
        (heard.atHub.has('robots.robot1.live.up') && heard.atRobot.has('robots.robot1.cmd.down')) || undefined
      );
    });
    for (const subject of ['robots.robot2.live.up', 'up']) {
      expect([...heard.atHub]).not.toContain(subject);
      expect([...heard.atRobot]).toContain(subject);
    }
    for (const subject of ['robots.robot2.cmd.down', 'down']) {
      expect([...heard.atRobot]).not.toContain(subject);
      expect([...heard.atHub]).toContain(subject);
    }
    // The domain by which a hub follows it.
    const stream = { name: 'TELEMETRY', subjects: ['robots.robot1.kept.>'] };
    const { did_create: created } = (
      await atRobot.request(
        '$JS.robot1.API.STREAM.CREATE.OTHER',
        JSON.stringify({ ...stream, name: 'OTHER' }),
      )
    ).json<{ did_create?: boolean }>();
    expect(created).toBe(true);
    expect((await jetstream(atRobot).publish('robots.robot1.kept.odom', '1')).stream).toBe('OTHER');
  },
  60_000,
);

test('faas up says what a role needs', async () => {
  const file = join(await temporaryFolder(), 'r.json');
  const refused = async (...args: string[]): Promise<string> => {
    const { code, stderr } = await faas(['up', '--dir', join(file, '..', 'site'), ...args]);
    expect(code).toBe(2);
    return stderr;
  };
  expect(await refused('--robot', 'robot1')).toContain('--hub URL and --robot-file FILE');
  expect(await refused('--control', '--robot', 'robot1')).toContain('two roles');
  expect(await refused('--control', '--host', '0.0.0.0')).toContain('--tls-cert');
  expect(await refused('--control', '--telemetry-size', '1Mi')).toContain('at least 4Mi, such as 500Mi');
  expect(await refused('--telemetry-size', '1Gi')).toContain('goes with --control');
  expect(await refused('--print-config')).toContain('--control or --robot');
  expect(await refused('--control', '--nats', 'nats://127.0.0.1:1')).toContain('--print-config');
});

test.skipIf(skipped)('a folder stays that of the site it was', async () => {
  const site = await startSite({ args: ['--control', '--leaf-port', String(await freePort())] });
  await site.process.stop();
  const { code, stderr } = await faas(['up', '--dir', site.dir, '--port', '0']);
  expect(code).toBe(2);
  expect(stderr).toMatch(/is the folder of a hub \(--control\) and cannot become a site of its own.*--dir/s);
});
