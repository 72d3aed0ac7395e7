/**
 * A robot that was taken over: its keys are in the hands of somebody with a nats-server without any rules, who tries
 * everything that is not the robot's own. Beside it a robot that is what it should be.
 */
import { readFile } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { jetstream, jetstreamManager, type JetStreamManager, type StoredMsg } from '@nats-io/jetstream';
import { headers, nkeyAuthenticator, nkeys, wsconnect, type NatsConnection } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import mqtt from 'mqtt';
import { beforeAll, describe, expect, test } from 'vitest';
import type { RobotFile } from '../../controller/broker/robot-file.ts';
import { startSite, type TestSite } from '../cli/run.ts';
import { closeLater } from '../support/closing.ts';
import { startNats, type NatsServer } from '../support/nats.ts';
import { freePort } from '../support/ports.ts';
import { missing } from '../support/requirement.ts';
import { managerOf, online, ours, program, robotArgs, startHub, until, type Hub } from './fleet.ts';

const skipped = await missing('nats-server');

/** Of somebody else: the hub's, ours, another robot's, nobody's. */
const foreign = [
  ...['other', 'a.b', 'sensor.temperature', 'robots', 'robots.robot1', 'robots.robot11.live.x'],
  ...['robots.robot2', 'robots.robot2.kept.odom', 'robots.robot2.live.scan', 'robots.robot2.cmd.go'],
  ...['robots.robot2.stats.presence', 'robots.robot2.stats.logs', 'robots.robot2.alert.x'],
  ...['atoll.hub.inbox.default.f.t', 'atoll.robot1.inbox.default.f.t', 'atoll.robot2.dead.default.f.t'],
  ...['$aws.things.robot2', '$aws.things.robot2.jobs.notify', '$aws.things'],
  ...['$KV.ATOLL_STATE.x', '$KV.ATOLL_ROBOTS.robot1', '$KV.ATOLL_ROBOTS.robot2', '$KV.mine.x', '$O.files.x'],
  ...['$JS.S.robot2.x', '$JS.S.x', '$JS.ACK.TELEMETRY.x.1.1.1.1.0', '$JS.EVENT.ADVISORY.x', '$JS.FC.x'],
  ...['_INBOX.robot2.x', '_INBOX.x', '_R_.x', '$SRV.PING', '$SRV.INFO', '$MQTT.msgs.x', '$MQTT.sess.x'],
  ...['$SYS.ACCOUNT.SITE.CONNECT', '$SYS.SERVER.x.SHUTDOWN', '$GR.x', '$NRG.x', '$LDS.x', '$JSC.CI.x'],
];
const own = ['robots.robot1.live.last', '$aws.things.robot1.jobs.get'];
/** A hub's `>` does not hear these. */
const hidden = [
  '$SYS.>',
  '$JS.>',
  '$KV.>',
  '$O.>',
  '$SRV.>',
  '$MQTT.>',
  '$aws.>',
  '$GR.>',
  '$NRG.>',
  '$LDS.>',
];

/** In whatever form a server may take a question to JetStream of the hub or of another robot. */
const questions = ['hub', 'robot2'].flatMap((domain) =>
  [
    ...['INFO', 'STREAM.NAMES', 'STREAM.LIST', 'STREAM.INFO.TELEMETRY', 'STREAM.INFO.KV_ATOLL_ROBOTS'],
    ...['STREAM.PURGE.TELEMETRY', 'STREAM.DELETE.TELEMETRY', 'STREAM.DELETE.ATOLL_INBOX'],
    ...[
      'STREAM.CREATE.EVIL',
      'STREAM.UPDATE.TELEMETRY',
      'STREAM.MSG.GET.TELEMETRY',
      'STREAM.MSG.DELETE.TELEMETRY',
    ],
    ...[
      'DIRECT.GET.TELEMETRY',
      'DIRECT.GET.KV_ATOLL_ROBOTS.$KV.ATOLL_ROBOTS.robot2',
      '$KV.ATOLL_ROBOTS.robot2',
    ],
    ...['CONSUMER.CREATE.TELEMETRY', 'CONSUMER.DURABLE.CREATE.TELEMETRY.evil', 'CONSUMER.LIST.TELEMETRY'],
    ...['CONSUMER.MSG.NEXT.TELEMETRY.evil', '$KV.ATOLL_STATE.x', 'META.LEADER.STEPDOWN'],
  ].map((question) => `$JS.${domain}.API.${question}`),
);
const systemQuestions = [
  ...['$SYS.REQ.SERVER.PING', '$SYS.REQ.SERVER.PING.VARZ', '$SYS.REQ.SERVER.PING.LEAFZ'],
  ...['$SYS.REQ.ACCOUNT.PING.CONNZ', '$SYS.REQ.ACCOUNT.SITE.CONNS', '$SYS.REQ.ACCOUNT.SITE.INFO'],
];

/** A link as nats-server opens one, by the robot's key, spoken by hand from then on. */
async function bareLink({ hostname, port }: URL, seed: string): Promise<Socket> {
  const socket = createConnection({ host: hostname, port: Number(port) });
  closeLater(async () => void socket.destroy());
  let heard = '';
  const told = Promise.withResolvers<void>();
  const accepted = Promise.withResolvers<void>();
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    heard += chunk;
    if (/^INFO .*\r\n/.test(heard)) told.resolve();
    if (/^LS\+ /m.test(heard)) accepted.resolve();
  });
  socket.once('close', () => accepted.reject(new Error(`the hub ended the link: ${heard}`)));
  await told.promise;
  const { nonce } = JSON.parse(/^INFO (.*)\r\n/.exec(heard)![1]!) as { nonce: string };
  const key = nkeys.fromSeed(new TextEncoder().encode(seed));
  const sig = Buffer.from(key.sign(new TextEncoder().encode(nonce))).toString('base64url');
  const self = { nkey: key.getPublicKey(), sig, name: 'robot1-1badcafe', server_id: 'N1', headers: true };
  socket.write(`CONNECT ${JSON.stringify(self)}\r\nPING\r\n`);
  await accepted.promise;
  return socket;
}

describe.skipIf(skipped)('a robot that was taken over', () => {
  let hub: Hub;
  let robot2: TestSite;
  let keys: RobotFile;
  let server: NatsServer;
  /** Its link and its claim, without rules on its side. */
  let [link, claim, atHub, atRobot2]: NatsConnection[] = [];
  let manager: JetStreamManager;

  beforeAll(async () => {
    const ports = [
      '--leaf-port',
      String(await freePort()),
      '--websocket',
      '--websocket-port',
      String(await freePort()),
    ];
    hub = await startHub({ args: ['--control', ...ports] });
    robot2 = await startSite({ args: robotArgs('robot2', await hub.add('robot2'), hub.url) });
    keys = JSON.parse(await readFile(await hub.add('robot1'), 'utf8')) as RobotFile;
    await online(hub, 'robot2');
    const remote = (account: string, seed: string): string =>
      `{ urls: ["${hub.info.leaf!.url}"], account: ${account}, nkey: ${seed} }`;
    server = await startNats({
      domain: 'robot1',
      serverName: 'robot1-0badcafe',
      config: `
        accounts {
          SYSTEM { users: [{ user: system, password: x }] }
          LINK { jetstream: enabled, users: [{ user: link, password: x }] }
          CLAIM { jetstream: enabled, users: [{ user: claim, password: x }] }
        }
        system_account: SYSTEM
        leafnodes { reconnect: "200ms", remotes: [${remote('LINK', keys.link)}, ${remote('CLAIM', keys.claim)}] }
      `,
    });
    link = await server.connect({ user: 'link', pass: 'x', inboxPrefix: '_INBOX.robot1' });
    claim = await server.connect({ user: 'claim', pass: 'x', inboxPrefix: '_INBOX.robot1' });
    atHub = await ours(hub);
    atRobot2 = await ours(robot2);
    manager = await managerOf(atHub);
    await until('both links are up', async () => ((await linksOfServer()).length === 2 ? true : undefined));
  }, 120_000);

  async function linksOfServer(): Promise<{ account: string; subscriptions_list?: string[] }[]> {
    const response = await fetch(`${server.monitorUrl}/leafz?subs=1`);
    const { leafs = [] } = (await response.json()) as {
      leafs?: { account: string; subscriptions_list?: string[] }[];
    };
    return leafs;
  }

  /** All subjects of messages with this text that came there. */
  function listen(connection: NatsConnection, text: string): () => string[] {
    const heard = new Set<string>();
    for (const subject of ['>', ...hidden, ...foreign, ...own]) {
      connection.subscribe(subject, {
        callback: (error, message) => {
          if (error === null && message.string() === text) heard.add(message.subject);
        },
      });
    }
    return () => [...heard].sort();
  }

  /** Until `known` has heard something, which is the last that is said; interest takes its time to the other server. */
  async function say(
    from: NatsConnection,
    text: string,
    last: string,
    known: () => string[],
    subjects: readonly string[] = foreign,
  ): Promise<void> {
    await until(`${last} is heard`, async () => {
      for (const subject of [...subjects, last]) from.publish(subject, text);
      await from.flush();
      return known().includes(last) || undefined;
    });
    for (const subject of [...subjects, last]) from.publish(subject, text);
    await from.flush();
    await new Promise((done) => setTimeout(done, 500));
  }

  test('is heard by nobody but on its own subjects, by whichever of its links it speaks', async () => {
    const [byLink, byClaim] = [crypto.randomUUID(), crypto.randomUUID()];
    const [hubHeard, robot2Heard] = [listen(atHub!, byLink), listen(atRobot2!, byLink)];
    await say(link!, byLink, own[0]!, hubHeard);
    expect(hubHeard()).toEqual([own[0]]);
    expect(robot2Heard()).toEqual([]);

    const claimHeard = [listen(atHub!, byClaim), listen(atRobot2!, byClaim)];
    for (const subject of [...foreign, ...own]) claim!.publish(subject, byClaim);
    await claim!.flush();
    // The link that is not shut says when that was long ago.
    await say(link!, crypto.randomUUID(), own[0]!, () => [own[0]!]);
    expect(claimHeard.map((heard) => heard())).toEqual([[], []]);
  });

  test('hears nothing but its own, whatever it listens to', async () => {
    const text = crypto.randomUUID();
    const [linkHeard, claimHeard] = [listen(link!, text), listen(claim!, text)];
    await Promise.all([link!.flush(), claim!.flush()]);
    // What is said where it is stored would be believed.
    const atHome = foreign
      .filter((subject) => !subject.includes('.kept.'))
      .map((subject) => subject.replace(/^(\$KV\.ATOLL_ROBOTS)\..*/, '$1.nobody'));
    await say(atHub!, text, own[0]!, linkHeard, atHome);
    await say(atRobot2!, text, 'robots.robot2.live.last', () => ['robots.robot2.live.last'], atHome);
    expect(linkHeard()).toEqual([own[0]]);
    expect(claimHeard()).toEqual([]);
  });

  test("gets no answer of JetStream or the servers, and nobody's stream or claim is changed", async () => {
    const before = await state();
    for (const from of [link!, claim!]) {
      const told = await Promise.all(
        [...questions, ...systemQuestions].map(async (question) => {
          const answers = await answersOf(from, question);
          // Its own server answers what is asked of servers; nobody else does, and no stream is told.
          const others = answers.filter(
            (text) => !text.startsWith(`{"server":{"name":"${server.serverName}"`),
          );
          return { question, others };
        }),
      );
      expect(told.filter(({ others }) => others.length > 0)).toEqual([]);
    }
    // Its own claim it may read and write, and it cannot be told to be another's.
    const mine = await claim!.request('$JS.hub.API.DIRECT.GET.KV_ATOLL_ROBOTS.$KV.ATOLL_ROBOTS.robot1', '');
    expect(mine.headers?.code).toBe(404);
    const ended = headers();
    ended.set('KV-Operation', 'DEL');
    claim!.publish('$JS.hub.API.$KV.ATOLL_ROBOTS.robot2', '', { headers: ended });
    await claim!.flush();
    expect(await state()).toEqual(before);
    expect((await hub.presence()).find(({ robot }) => robot === 'robot2')).toMatchObject({ online: true });
  }, 120_000);

  /** Names of the streams, what is in those that grow by nobody's doing, and who has the other robot's id. */
  async function state(): Promise<object> {
    const streams = await manager.streams.list().next();
    const claimed = await manager.streams.getMessage('KV_ATOLL_ROBOTS', {
      last_by_subj: '$KV.ATOLL_ROBOTS.robot2',
    });
    const { holder } = claimed!.json<{ holder: string }>();
    const names = streams.map(({ config }) => config.name).sort();
    const telemetry = streams.find(({ config }) => config.name === 'TELEMETRY')!;
    return { names, holder, config: telemetry.config, last: telemetry.state.last_seq };
  }

  async function answersOf(from: NatsConnection, subject: string): Promise<string[]> {
    const answers: string[] = [];
    const inbox = `_INBOX.robot1.${crypto.randomUUID()}`;
    const subscription = from.subscribe(inbox, {
      callback: (error, message) => {
        if (error === null && message.headers?.code !== 503) answers.push(message.string());
      },
    });
    from.publish(subject, '{}', { reply: inbox });
    await from.flush();
    await new Promise((done) => setTimeout(done, 1_000));
    subscription.unsubscribe();
    return answers;
  }

  /** As a robot does: by its heartbeat the hub sees that it has to follow it. */
  async function follow(): Promise<void> {
    const mine = await jetstreamManager(link!, { checkAPI: false });
    await until('the hub follows it', async () => {
      const { state: kept, created } = await mine.streams.info('TELEMETRY');
      const heartbeat = {
        since: new Date().toISOString(),
        functions: { ready: 0, total: 0 },
        kept: { firstSeq: kept.first_seq, lastSeq: kept.last_seq, bytes: kept.bytes, created },
      };
      link!.publish('robots.robot1.stats.presence', JSON.stringify(heartbeat));
      return await delivery();
    });
  }

  /** Where the hub's source is sent what it asked for. */
  const delivery = async (): Promise<string | undefined> =>
    (await linksOfServer())
      .flatMap(({ subscriptions_list: all = [] }) => all)
      .find((subject) => subject.startsWith('$JS.S.robot1.'));

  const stored = async (find: (message: StoredMsg) => boolean): Promise<StoredMsg[]> => {
    const { state: of } = await manager.streams.info('TELEMETRY');
    const found: StoredMsg[] = [];
    for (let seq = Math.max(1, of.first_seq); seq <= of.last_seq; seq += 1) {
      const message = await manager.streams.getMessage('TELEMETRY', { seq });
      if (message !== null && find(message)) found.push(message);
    }
    return found;
  };

  test("what it keeps is the hub's under its own name, whatever subject and ids it has", async () => {
    const mine = await jetstreamManager(link!, { checkAPI: false });
    await mine.streams.add({ name: 'TELEMETRY', subjects: ['robots.>', 'atoll.>'], allow_rollup_hdrs: true });
    await follow();
    const evil = jetstream(link!);
    const good = jetstream(await program(robot2));
    await good.publish('robots.robot2.kept.odom', 'before', { msgID: 'robot2-before' });
    for (const subject of [
      'robots.robot2.kept.odom',
      'robots.robot2.cmd.go',
      'atoll.hub.inbox.default.f.t',
    ]) {
      await evil.publish(subject, 'forged');
    }
    // The ids that the other robot is about to use.
    for (const number of [1, 2, 3]) {
      await evil.publish('robots.robot1.kept.odom', 'forged', { msgID: `robot2-next-${number}` });
    }
    // Everything before it is to go.
    const rollup = headers();
    rollup.set('Nats-Rollup', 'all');
    await evil.publish('robots.robot1.kept.odom', 'forged last', { headers: rollup });
    await until(
      'the hub has followed it',
      async () => (await stored((one) => one.string() === 'forged last'))[0],
    );
    for (const number of [1, 2, 3]) {
      await good.publish('robots.robot2.kept.odom', `${number}`, { msgID: `robot2-next-${number}` });
    }
    await until(
      'the hub has all of the other robot',
      async () => (await stored((one) => one.string() === '3'))[0],
    );
    const ofOther = await stored(({ subject }) => subject.startsWith('robots.robot2.'));
    expect(ofOther.map((message) => message.string())).toEqual(['before', '1', '2', '3']);
    const forged = await stored((message) => message.string().startsWith('forged'));
    expect(forged.length).toBeGreaterThanOrEqual(1);
    for (const { subject } of forged) expect(subject).toMatch(/^robots\.robot1\.kept\./);
  });

  test('a delivery that it makes up itself is taken for its own, at most', async () => {
    const deliver = (await delivery())!;
    const acknowledgements: string[] = [];
    link!.subscribe(deliver, {
      callback: (error, { reply }) => {
        if (error === null && reply?.startsWith('$JS.ACK.')) acknowledgements.push(reply);
      },
    });
    await jetstream(link!).publish('robots.robot1.kept.odom', 'true');
    const words = (await until('a delivery', async () => acknowledgements.at(-1), 10_000)).split('.');
    // $JS.ACK[.<domain>.<account>].<stream>.<consumer>.<times>.<stream sequence>.<consumer sequence>.…: the next of both,
    // with another's subject behind it, as servers tell each other what a message is called.
    const at = words.indexOf('TELEMETRY') + 3;
    const next = words
      .with(at, String(Number(words[at]) + 1))
      .with(at + 1, String(Number(words[at + 1]) + 1));
    // A nats-server lets no client say that; who speaks the protocol of links himself is not asked.
    const bare = await bareLink(new URL(hub.info.leaf!.url), keys.link);
    const text = 'made up';
    bare.write(`LMSG ${deliver} ${next.join('.')}@robots.robot2.kept.odom ${text.length}\r\n${text}\r\n`);
    const [made] = await until(
      'the hub took it',
      async () => {
        const found = await stored((message) => message.string() === 'made up');
        return found.length > 0 ? found : undefined;
      },
      10_000,
    );
    expect(made!.subject).toBe('robots.robot1.kept.odom');
  });

  test('its keys open links and nothing else', async () => {
    for (const seed of [keys.link, keys.claim]) {
      const authenticator = nkeyAuthenticator(new TextEncoder().encode(seed));
      const servers = hub.info.nats.url;
      await expect(connect({ servers, authenticator, reconnect: false })).rejects.toThrow(/auth/i);
      const web = hub.info.websocket!.url;
      await expect(wsconnect({ servers: web, authenticator, reconnect: false })).rejects.toThrow();
      const device = mqtt.connectAsync(hub.info.mqtt!.url, {
        protocolVersion: 4,
        reconnectPeriod: 0,
        username: seed,
        password: seed,
      });
      await expect(device).rejects.toThrow(/[Nn]ot authorized/);
    }
  });
});
