/**
 * Telemetry of a robot: what ROS publishes goes to NATS, as one YAML in TELEMETRY says; commands go the other way. Which
 * topics come at all, and how often, is the ros trigger of function.yaml. See README.md beside this file.
 */
import { nats, ros, type Context } from 'atoll';
import { openCommands, type CommandAnswer } from './commands.ts';
import { exposition, type TopicCounts } from './counters.ts';
import { openDefinitions } from './definitions.ts';
import { openForward } from './forward.ts';
import { openLosses } from './losses.ts';
import { parseSettings } from './settings.ts';
import { openTopics, type Topic } from './topics.ts';

/** Of one topic, so that what goes on all the time is told once in a while. */
const tellAgainMs = 60_000;

const settings = parseSettings(process.env['TELEMETRY'], process.env);
const { robot } = settings;
const name = process.env['AWS_LAMBDA_FUNCTION_NAME'] ?? 'telemetry';
const run = `${Date.now().toString(36)}-${crypto.randomUUID().slice(0, 8)}`;
const since = new Date().toISOString();

const topics = openTopics(settings);
const definitions = openDefinitions(robot);
const forward = openForward({ settings, topics, definitions, run, tell });
const command = openCommands(settings, definitions);
const countLosses = openLosses({ topics, startedMs: Date.now(), tell });

export const handler = async (event: unknown, context: Context) => {
  switch (context.trigger.kind) {
    case 'ros':
      return await forward(event as Uint8Array, context);
    case 'nats':
      return told(await command(event, context));
    case 'schedule':
      return await report();
    case 'http':
      return await metrics();
    default:
      throw new TypeError(`telemetry has no use for a trigger of kind ${context.trigger.kind}`);
  }
};

/** Every few seconds: what became of the messages, and definitions that are not kept yet. */
async function report(): Promise<void> {
  countLosses(await ros.topics());
  const counts = [...topics.all()].map(countsOf({ reset: true }));
  await nats.publish(`robots.${robot}.stats.${name}`, { robot, function: name, run, since, topics: counts });
  await definitions.keep();
}

async function metrics() {
  countLosses(await ros.topics());
  const body = exposition([...topics.all()].map(countsOf({ reset: false })));
  return { statusCode: 200, headers: { 'content-type': 'text/plain; version=0.0.4' }, body };
}

const countsOf =
  (options: { reset: boolean }) =>
  ({ name: topic, type, settings: own, counter }: Topic): TopicCounts & Record<string, unknown> => ({
    topic,
    type,
    ...(own && { as: own.as, class: own.class }),
    ...counter.read(options),
  });

const toldMs = new Map<string, number>();

/** In the log, and to whoever listens to the robot's alerts. */
function tell({ name: topic, type }: Topic, problem: string): void {
  const nowMs = performance.now();
  if (nowMs - (toldMs.get(topic) ?? -Infinity) < tellAgainMs) return;
  toldMs.set(topic, nowMs);
  console.warn(`${topic} (${type}): ${problem}`);
  const alert = { robot, function: name, topic, type, problem, time: new Date().toISOString() };
  // Whether anybody listens does not matter.
  nats.publish(`robots.${robot}.alert.${name}`, alert).catch(() => {});
}

function told(answer: CommandAnswer): CommandAnswer {
  if (answer.ok) console.info(`command ${answer.command} was carried out`);
  else console.warn(`command ${answer.command} was refused: ${answer.code}: ${answer.message}`);
  return answer;
}
