/**
 * `npm start`: a site, the examples, one real event through each kind of trigger. `--robots N`: a hub and so many
 * robots instead. `--once` stops afterwards.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { maxRobots, showFleet } from './fleet/show.ts';
import { startSite, type Site } from './site.ts';
import { deployExamples, sendEvents, table } from './tour.ts';

const tell = (line: string): void => void process.stderr.write(`${line}\n`);
const { values } = parseArgs({
  options: { once: { type: 'boolean', default: false }, robots: { type: 'string' } },
});
const robots = values.robots === undefined ? undefined : Number(values.robots);

if (robots === undefined) {
  await showSite();
} else if (Number.isInteger(robots) && robots >= 1 && robots <= maxRobots) {
  // What it waited for when it was interrupted is of no interest any more.
  process.exit(await showFleet({ robots, once: values.once, tell }));
} else {
  tell(`--robots must be an integer from 1 to ${maxRobots}, not "${values.robots}"`);
  process.exitCode = 2;
}

async function showSite(): Promise<void> {
  const dir = values.once ? await mkdtemp(join(tmpdir(), 'atoll-start-')) : resolve('.atoll');
  tell(`starting a site in ${dir} (the first start builds nats-server, which takes about a minute)`);
  const site = await startSite(dir, { show: true });
  let failed: boolean;
  try {
    failed = await tour(site);
  } catch (error) {
    tell(error instanceof Error ? error.message : String(error));
    failed = true;
  }

  if (values.once || failed) {
    await site.stop();
    if (values.once) await rm(dir, { recursive: true, force: true });
    process.exitCode = failed ? 1 : 0;
  } else {
    console.log(`
The site runs until Ctrl-C. Try in another terminal:
  npx faas list
  npx faas invoke nats-echo -d '{"text":"hi"}'
  curl ${site.url}/examples/robots
  npx faas logs schedule-report -f
  npx faas init my-function && npx faas deploy my-function
`);
    // Ctrl-C reaches the site too, which drains and ends; a SIGTERM to us alone is passed on.
    process.on('SIGINT', () => undefined);
    process.on('SIGTERM', () => void site.stop());
    process.exitCode = await site.ended;
    await site.nats.close();
  }
}

async function tour(running: Site): Promise<boolean> {
  await deployExamples(running, tell);
  const results = await sendEvents(running);
  console.log(`\n${table(results)}\n`);
  return results.some(({ ok }) => !ok);
}
