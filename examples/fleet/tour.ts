/** Telemetry, commands and a cut link of a fleet, each with what came of it. */
import { RequestError } from '@nats-io/nats-core';
import type { Decoded } from 'atoll/telemetry';
import { expectEqual, until } from '../site.ts';
import type { Result } from '../tour.ts';
import { untilSeen, type Fleet, type Robot } from './fleet.ts';
import {
  deployTelemetry,
  field,
  openReader,
  readNumbers,
  storedNumbers,
  summary,
  takenOver,
  type Reader,
} from './telemetry.ts';
import { numbersTopic } from './telemetry-manifest.ts';

const topics = ['/odom', '/scan', '/battery_state', '/diagnostics'];
const shownMs = 4_000;
/** Of one topic of one robot. */
const lineEveryMs = 1_000;
const commandTimeoutMs = 10_000;
/** Of cut and healed: long enough that the hub sees the robot go, which takes it 5 s. */
const numbers = { count: 400, hz: 25 } as const;
const beforeCut = 50;
/** A plain source of nats-server takes up to 49 s after a cut; the hub's takes about one. */
const catchUpMs = 60_000;

type Row = Pick<Result, 'sent' | 'answer'>;
type Tell = (line: string) => void;

/** A row for each robot and each thing that is tried with it. */
export async function tourFleet(fleet: Fleet, tell: Tell): Promise<Result[]> {
  const { robots } = fleet;
  const reader = openReader(fleet.nats, fleet.manager);
  for (const robot of robots) {
    tell(`deploying functions/telemetry on ${robot.id}`);
    await deployTelemetry(robot);
  }
  const results: Result[] = [];
  const tryEach = async (trigger: string, attempt: (robot: Robot) => Promise<Row>): Promise<void> => {
    results.push(...(await Promise.all(robots.map((robot) => resultOf(trigger, robot, attempt)))));
  };

  tell(`telemetry at the hub, for ${shownMs / 1000} s, decoded without ROS:`);
  const silence = show(reader, robots);
  await new Promise((resolve) => setTimeout(resolve, shownMs));
  silence();
  await tryEach('telemetry', (robot) => telemetryRow(reader, robot));
  await tryEach('command', (robot) => driveRow(fleet, reader, robot));
  await tryEach('service', (robot) => resetRow(fleet, robot));
  results.push(
    ...(await cutAndHeal(fleet, reader, tell).catch((error: unknown) =>
      robots.map(({ id }) => failed({ trigger: 'cut link', name: id }, error, 0)),
    )),
  );
  return results;
}

async function resultOf(
  trigger: string,
  robot: Robot,
  attempt: (robot: Robot) => Promise<Row>,
): Promise<Result> {
  const started = performance.now();
  const common = { name: robot.id, trigger };
  try {
    const row = await attempt(robot);
    return { ...common, ...row, ms: performance.now() - started, ok: true };
  } catch (error) {
    return failed(common, error, performance.now() - started);
  }
}

function failed(what: Pick<Result, 'trigger' | 'name'>, error: unknown, ms: number): Result {
  const [answer = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
  return { ...what, sent: '-', answer, ms, ok: false };
}

/** The newest of each topic, then what comes, but not every scan. Returns the way to stop. */
function show(reader: Reader, robots: readonly Robot[]): () => void {
  const shownAt = new Map<string, number>();
  const line = (message: Decoded): void => {
    const { robot, topic, encoding, received } = message;
    const key = `${robot} ${topic}`;
    if (performance.now() - (shownAt.get(key) ?? -Infinity) < lineEveryMs) return;
    shownAt.set(key, performance.now());
    const time = new Date(received).toISOString().slice(11, 23);
    const columns = [time, robot.padEnd(7), topic.padEnd(14), encoding.padEnd(4), summary(message)];
    console.log(`  ${columns.join('  ')}`);
  };
  for (const { newest } of robots.flatMap(({ id }) => reader.of(id))) line(newest);
  return reader.listen(line);
}

async function telemetryRow(reader: Reader, { id }: Robot): Promise<Row> {
  const of = (topic: string) => reader.of(id).find(({ newest }) => newest.topic === topic);
  // What did not change is sent again after 10 s.
  await until(async () => topics.every((topic) => of(topic) !== undefined) || undefined).catch(() => {
    const missing = topics.filter((topic) => of(topic) === undefined);
    throw new Error(`nothing was heard of ${missing.join(', ')}`);
  });
  const counts = topics.map((topic) => `${of(topic)?.count} ${of(topic)?.newest.encoding}`);
  return { sent: topics.join(' '), answer: `decoded: ${counts.join(', ')}` };
}

async function driveRow(fleet: Fleet, reader: Reader, robot: Robot): Promise<Row> {
  const fields = { linear: { x: 0.25 } };
  const answer = await command(fleet, robot, 'drive', fields);
  await until(async () => robot.simulated.speed.linear === fields.linear.x || undefined);
  // The way back: it is in what the robot tells of itself.
  await until(async () => {
    const odometry = reader.of(robot.id).find(({ newest }) => newest.topic === '/odom');
    return (
      (odometry && field(odometry.newest.message, 'twist.twist.linear.x') === fields.linear.x) || undefined
    );
  });
  return {
    sent: `robots.${robot.id}.cmd.drive ${JSON.stringify(fields)}`,
    answer: `${JSON.stringify(answer)}, then /odom says 0.25 m/s`,
  };
}

async function resetRow(fleet: Fleet, robot: Robot): Promise<Row> {
  const answer = await command(fleet, robot, 'reset', {});
  expectEqual((answer.response as { success?: boolean } | undefined)?.success, true);
  return { sent: `robots.${robot.id}.cmd.reset {}`, answer: JSON.stringify(answer.response) };
}

interface Answer {
  readonly ok: boolean;
  readonly response?: unknown;
}

async function command({ nats }: Fleet, { id }: Robot, name: string, fields: object): Promise<Answer> {
  const subject = `robots.${id}.cmd.${name}`;
  const reply = await until(async () => {
    try {
      return await nats.request(subject, JSON.stringify(fields), { timeout: commandTimeoutMs });
    } catch (error) {
      // That a robot listens is known here a moment after it does.
      if (error instanceof RequestError && error.isNoResponders()) return undefined;
      throw error;
    }
  });
  const answer = reply.json<Answer>();
  if (!answer.ok) throw new Error(`${subject}: ${JSON.stringify(answer)}`);
  return answer;
}

/** Numbered messages on all robots, while the first one's link is away for a while; and what the hub has in the end. */
async function cutAndHeal(fleet: Fleet, reader: Reader, tell: Tell): Promise<Result[]> {
  const { robots, manager, hub } = fleet;
  const [first] = robots;
  if (first === undefined) return [];
  let lost: Error | undefined;
  const stored = async (): Promise<number[]> => {
    if (lost !== undefined) throw lost;
    return await storedNumbers(manager, robots);
  };
  const started = performance.now();
  await Promise.all(robots.map(({ simulated }) => simulated.matched()));
  tell(`${numbers.count} numbered messages on ${numbersTopic} of each robot, ${numbers.hz} a second`);
  const published = Promise.all(robots.map(({ simulated }) => simulated.numbers(numbers.count, numbers.hz)));
  published.catch((error: Error) => void (lost = error));
  await until(async () => (await stored()).every((count) => count >= beforeCut) || undefined);

  const heard = new Map(robots.map(({ id }) => [id, 0]));
  const deaf = reader.listen(({ robot }) => void heard.set(robot, (heard.get(robot) ?? 0) + 1));
  const cutAt = performance.now();
  first.link.cut();
  heard.forEach((_count, id) => heard.set(id, 0));
  tell(
    `cutting ${first.id}'s link: a TCP relay in this process, between its nats-server and the hub's, ` +
      'ends its connections and takes no new ones',
  );
  await untilSeen(fleet, (online) => robots.every(({ id }) => online.get(id) === (id !== first.id)));
  deaf();
  const [here = 0] = await stored();
  const there = await takenOver(first, numbersTopic);
  console.log(`\n${(await hub.faas('robots')).stdout}`);
  const messages = robots.map(({ id }) => `${heard.get(id)} of ${id}`).join(', ');
  tell(
    `heard at the hub since the cut: ${messages}; ${first.id} itself has taken over ${there} of ${numbersTopic}, the hub has ${here}`,
  );
  const kept = await first.simulated.published();
  first.link.heal();
  const healedAt = performance.now();
  const cutS = ((healedAt - cutAt) / 1000).toFixed(1);
  // What did not come in time shows in the row.
  const caughtUp = until(async () => ((await stored())[0] ?? 0) >= kept || undefined, catchUpMs).then(
    () =>
      tell(
        `healed after ${cutS} s; ${Math.round(performance.now() - healedAt)} ms later the hub had what was kept`,
      ),
    () => undefined,
  );

  const totals = await published;
  await caughtUp;
  await until(
    async () => (await stored()).every((count, index) => count >= totals[index]!) || undefined,
    catchUpMs,
  ).catch(() => undefined);
  const ms = performance.now() - started;
  await untilSeen(fleet, (online) => robots.every(({ id }) => online.get(id) === true));
  console.log(`\n${(await hub.faas('robots')).stdout}`);
  return await Promise.all(
    robots.map(async (robot, index): Promise<Result> => {
      const total = totals[index] ?? 0;
      const came = await takenOver(robot, numbersTopic);
      const out = await readNumbers(manager, robot.id);
      const isInOrder = out.every((number, at) => number === at);
      const order = isInOrder ? 'each once and in order' : 'NOT each once and in order';
      return {
        trigger: robot === first ? `cut for ${cutS} s` : 'never cut',
        name: robot.id,
        sent: `${total} messages on ${numbersTopic}`,
        answer: `in ${came}, out at the hub ${out.length}, ${order}`,
        ms,
        ok: total === numbers.count && came === total && out.length === came && isInOrder,
      };
    }),
  );
}
