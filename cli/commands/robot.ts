import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { RobotPresence } from '../../controller/broker/presence.ts';
import { usualPorts } from '../../controller/broker/nats-server.ts';
import type { RobotFile } from '../../controller/broker/robot-file.ts';
import {
  hubSite,
  openRobots,
  overlapMs,
  type Robots,
  type RobotSecrets,
} from '../../controller/broker/robots.ts';
import { writeAtomically } from '../../controller/stores/atomic-file.ts';
import type { SiteInfo } from '../../controller/stores/site.ts';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import { note, print, printData, spanMs, table } from '../output.ts';
import { openSite, type Site } from '../site.ts';

const actions = ['add', 'rotate', 'remove', 'list'] as const;
/** The running hub looks every few seconds, and at once where the file system tells it. */
const appliedMs = 15_000;

export const command = defineCommand({
  namespaced: false,
  positionals: {
    action: { type: 'string', describe: 'What to do', required: true, choices: actions },
    id: { type: 'string', describe: "The robot's id: also the name of its site" },
  },
  options: {
    out: {
      type: 'string',
      value: 'FILE',
      describe: 'add, rotate: where the file for the robot goes; else ./ID.json',
    },
    ca: {
      type: 'string',
      value: 'FILE',
      describe: 'add, rotate: whose certificates the robot is to trust (PEM); else those of its system',
    },
    keep: {
      type: 'string',
      value: 'SPAN',
      default: `${overlapMs / 3_600_000}h`,
      describe: 'rotate: how long the keys before are good for yet, such as 0s, 30m, 24h',
    },
  },
  description:
    'A hub ("faas up --control") lets in the robots that were added to it. What add and rotate write is carried to the robot and given to "faas up --robot" there; the hub keeps the public keys only. Remove ends a link at once.',
  examples: [
    ['robot add robot1', 'Writes ./robot1.json, for the robot alone'],
    ['robot add robot1 --ca ca.pem', 'The hub has a certificate of that authority'],
    ['robot rotate robot1', 'New keys; those before are good for a day more'],
    ['robot remove robot1', 'It comes in no more, from now on'],
    ['robot list', 'Who may come in'],
  ],
  async run({ site: dir, context, action, id, out, ca, keep, output }) {
    const site = await openSite({ site: dir, context });
    const { folder, title } = site;
    if (folder === undefined) {
      throw new Failure(exitCodes.site, `${title} is a cluster, and robots have a hub of their own`, {
        advice: 'Name its folder with --site.',
      });
    }
    const robots = openRobots(folder.paths.dir);
    if (action === 'list') return await list(robots, output);
    if (id === undefined) throw usageError(`robot ${action} needs the id of a robot`);
    if (folder.info !== undefined && folder.info.site !== hubSite) {
      throw new Failure(exitCodes.site, `${title} is no hub, but the site "${folder.info.site}"`, {
        advice: 'Start a hub with "faas up --control".',
      });
    }
    if (action === 'remove') {
      await robots.remove(id);
      await untilApplied(site, (known) => known.every(({ robot }) => robot !== id));
      return note(`${id} was removed: it comes in no more.`);
    }
    const keepMs = spanMs(keep);
    if (keepMs === undefined) throw usageError(`--keep is "${keep}"; it must be a span such as 0s, 30m, 24h`);
    const authority = ca === undefined ? undefined : await certificatesOf(ca);
    const file = resolve(out ?? `${id}.json`);
    const deliver = async (secrets: RobotSecrets): Promise<void> => {
      const text = JSON.stringify(fileFor(secrets, folder.info, authority), null, 2);
      await writeAtomically(file, `${text}\n`, { stays: true });
    };
    await (action === 'add' ? robots.add(id, deliver) : robots.rotate(id, keepMs, deliver));
    const before = (await robots.list()).find((robot) => robot.id === id)?.keys.length ?? 1;
    await untilApplied(site, (known) =>
      known.some(({ robot, keys }) => robot === id && keys === (keepMs > 0 ? before : 1)),
    );
    note(`Carry it to the robot (it holds private keys, and only the robot needs it), then run there:`);
    note(`  faas up --robot ${id} --hub ${hubFor(folder.info)} --robot-file ${id}.json`);
    print(file);
  },
});

async function list(robots: Robots, output: string | undefined): Promise<void> {
  const known = await robots.list();
  if (output === 'json' || output === 'yaml') return await printData(known, output);
  if (known.length === 0) return note('There are no robots; "faas robot add ID" adds one.');
  const rows = known.map(({ id, keys }) => {
    const old = keys.find(({ until }) => until !== undefined);
    return [id, keys.at(-1)?.since ?? '', keys.at(-1)?.link ?? '', old?.until ?? ''];
  });
  print(table(['ROBOT', 'KEYS SINCE', 'PUBLIC KEY', 'KEYS BEFORE UNTIL'], rows));
}

async function certificatesOf(file: string): Promise<string> {
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    throw usageError(`--ca: ${(error as Error).message}`);
  });
  if (!text.includes('-----BEGIN CERTIFICATE-----') || text.includes('PRIVATE KEY')) {
    throw usageError(`--ca: ${file} must hold certificates (PEM), and no key`);
  }
  return text;
}

function fileFor(secrets: RobotSecrets, info: SiteInfo | undefined, ca: string | undefined): RobotFile {
  const portOf = (url: string | undefined): number | undefined =>
    url === undefined ? undefined : Number(new URL(url).port) || undefined;
  const websocket = portOf(info?.websocket?.url);
  return {
    ...secrets,
    hub: hubSite,
    ports: {
      leaf: portOf(info?.leaf?.url) ?? usualPorts.leaf,
      ...(websocket !== undefined && { websocket }),
    },
    ...(ca !== undefined && { ca }),
  };
}

const hubFor = (info: SiteInfo | undefined): string => {
  const url = info?.leaf?.url ?? 'tls://HUB';
  return url.replace('nats-leaf:', 'nats:').replace(/\/\/(0\.0\.0\.0|\[?::\]?):/, '//HUB:');
};

/** A hub that does not run reads what was changed at its start. */
async function untilApplied({ gateway }: Site, is: (robots: RobotPresence[]) => boolean): Promise<void> {
  if (gateway === undefined) return;
  const deadline = Date.now() + appliedMs;
  while (!is((await gateway.robots()).robots)) {
    if (Date.now() > deadline) {
      throw new Failure(exitCodes.site, `the running hub did not take it over within ${appliedMs / 1000} s`, {
        advice: 'See what it printed last.',
      });
    }
    await pause(100);
  }
}
