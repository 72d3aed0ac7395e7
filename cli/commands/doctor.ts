import { readFile } from 'node:fs/promises';
import { defineCommand, exitCodes } from '../command.ts';
import { openDirectoryStore } from '../../controller/stores/directory.ts';
import {
  findSite,
  readSite,
  sitePaths,
  type SiteInfo,
  type SitePaths,
} from '../../controller/stores/site.ts';
import type { Store } from '../../controller/stores/store.ts';
import { adviceFor } from '../advice.ts';
import { checksOf, type Check } from '../doctor/check.ts';
import { fileChecks, folderChecks, hasOwnBroker, lastConfig } from '../doctor/folder.ts';
import { clockCheck, programChecks } from '../doctor/programs.ts';
import { mqttCheck, natsChecks, s3Checks } from '../doctor/servers.ts';
import { functionChecks, gatewayCheck, runningCheck } from '../doctor/site.ts';
import { note, paint, print, printData } from '../output.ts';
import { gatewayOf } from '../folder-site.ts';
import { version } from '../version.ts';

export const command = defineCommand({
  namespaced: false,
  positionals: {},
  options: {},
  description:
    'Looks at the programs, the clock, the folder and its disk, the process that runs the site, its gateway, NATS with JetStream and the streams in it, MQTT, S3, and each function of every namespace, and changes nothing. Of a site that does not run it looks at all that is there without it. Exit code 0: nothing is wrong (there may be warnings); 1: only functions are; 3: the site, its servers or its folder are.',
  examples: [
    ['doctor', 'What is wrong here, and what to do'],
    ['doctor -o json', 'The same as data'],
    ['doctor --site /var/lib/atoll', 'Of another site'],
  ],
  async run({ site, output }) {
    const checks = await examine(findSite(process.cwd(), process.env, site));
    const problems = checks.filter(({ state }) => state === 'problem');
    if (output === 'json' || output === 'yaml')
      await printData({ ok: problems.length === 0, checks }, output);
    else report(checks);
    if (problems.length === 0) return exitCodes.ok;
    return problems.every(({ whose }) => whose === 'yours') ? exitCodes.functionFailed : exitCodes.site;
  },
});

/** Every part, in the order in which one leans on the other. */
async function examine(dir: string | undefined): Promise<Check[]> {
  const paths = await pathsOf(dir);
  if (paths === undefined) {
    const where = dir ?? `neither ${process.cwd()} nor a folder above it holds .atoll`;
    return [
      ...(await programChecks({ ownBroker: true })),
      await clockCheck(undefined),
      checksOf('site').problem(`no site: ${where}`, adviceFor('NoSite')),
    ];
  }
  const info = await readSite(paths.dir).catch(() => undefined);
  const settings = settingsOf(info, await lastConfig(paths), paths);
  const ownBroker = await hasOwnBroker(paths, settings.nats?.url);
  const store = await openDirectoryStore({ dir: paths.dir }).catch(() => undefined);
  const [programs, clock, folder, running, servers] = await Promise.all([
    programChecks({ ownBroker }),
    clockCheck(paths),
    folderChecks(paths),
    runningChecks(paths, store, info),
    serverChecks(settings, { ownBroker, info }),
  ]);
  const files = store === undefined ? [] : await fileChecks(paths, store);
  return [...programs, clock, ...folder, ...running.site, ...servers, ...running.functions, ...files];
}

/** Undefined: there is no site at all. One that may not be read is told by its own check. */
async function pathsOf(dir: string | undefined): Promise<SitePaths | undefined> {
  if (dir === undefined) return undefined;
  const paths = sitePaths(dir);
  return await readFile(paths.version).then(
    () => paths,
    (error: NodeJS.ErrnoException) => (error.code === 'ENOENT' ? undefined : paths),
  );
}

async function runningChecks(
  paths: SitePaths,
  store: Store | undefined,
  info: SiteInfo | undefined,
): Promise<{ site: Check[]; functions: Check[] }> {
  const running = runningCheck(info, paths.dir, version());
  if (store === undefined) return { site: [running], functions: [] };
  const gateway = await gatewayOf({ paths, info });
  if (gateway === undefined || info === undefined) {
    return { site: [running], functions: await functionChecks(store, undefined) };
  }
  const answers = await gatewayCheck(gateway, info);
  // Each function would only repeat that nobody answers.
  const functions = answers.state === 'ok' ? await functionChecks(store, gateway) : [];
  return { site: [running, answers], functions };
}

type Settings = Awaited<ReturnType<typeof lastConfig>>;

/** What runs now says where its servers are; the host's configuration, where their credentials lie. */
function settingsOf(info: SiteInfo | undefined, last: Settings, paths: SitePaths): Settings {
  if (info === undefined) return last;
  return {
    site: info.site,
    nats: { ...last.nats, ...info.nats },
    ...(info.mqtt && { mqtt: { ...last.mqtt, ...info.mqtt } }),
    ...(info.s3 && { s3: { ...info.s3, credentialsFile: paths.s3 } }),
  };
}

async function serverChecks(
  { nats, mqtt, s3, site }: Settings,
  { ownBroker, info }: { ownBroker: boolean; info: SiteInfo | undefined },
): Promise<Check[]> {
  const away = ownBroker && info === undefined;
  const withSite = (part: string): Check => checksOf(part).none('starts with the site');
  const unknown = (part: string): Check => checksOf(part).none('the site has none');
  // MQTT is a part of the own NATS server, unless the site was given a broker.
  const ownMqtt = away && (mqtt === undefined || mqtt.url.startsWith('mqtt://127.0.0.1:'));
  const checks = await Promise.all([
    away ? [withSite('nats')] : nats === undefined ? [unknown('nats')] : natsChecks(nats, site ?? 'local'),
    ownMqtt ? [withSite('mqtt')] : mqtt === undefined ? [unknown('mqtt')] : [mqttCheck(mqtt)],
    s3 === undefined ? [checksOf('s3').none('packages are kept in the folder of the site')] : s3Checks(s3),
  ]);
  return (await Promise.all(checks.flat())).flat();
}

const marks = {
  ok: ['green', '✓'],
  warning: ['yellow', '!'],
  problem: ['red', '✗'],
  none: ['gray', '–'],
} as const;

function report(checks: readonly Check[]): void {
  const width = Math.max(...checks.map(({ part }) => part.length));
  for (const { part, state, message, advice } of checks) {
    const [colour, mark] = marks[state];
    print(`${paint(colour, mark)} ${part.padEnd(width)}  ${message}`);
    if (advice !== undefined) print(`  ${' '.repeat(width)}  → ${advice}`);
  }
  const count = (state: Check['state']): number => checks.filter((check) => check.state === state).length;
  const [problems, warnings] = [count('problem'), count('warning')];
  note(
    problems + warnings === 0
      ? 'All is well.'
      : `${problems} ${problems === 1 ? 'problem' : 'problems'}, ${warnings} ${warnings === 1 ? 'warning' : 'warnings'}`,
  );
}
