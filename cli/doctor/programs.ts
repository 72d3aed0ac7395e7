/** The programs that a site runs, and the clock it runs by. */
import { execFile } from 'node:child_process';
import { readdir, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { FunctionSpec } from '../../crds/function.ts';
import { missingRos } from '../../controller/backends/ros-process.ts';
import type { SitePaths } from '../../controller/stores/site.ts';
import { faultOf } from '../../runtime/errors.ts';
import { nodeBinary } from '../../runtime/process/node.ts';
import { cacheFolder, findTool, tools } from '../../tools/install.ts';
import { checksOf, type Check } from './check.ts';

const run = promisify(execFile);
const answerMs = 10_000;
/** Files are written by this machine's own clock. */
const futureMs = 60_000;

export async function programChecks(options: { ownBroker: boolean }): Promise<Check[]> {
  const runtimes: FunctionSpec['runtime'][] = ['nodejs24.x', 'nodejs22.x'];
  return await Promise.all([
    ...runtimes.map(nodeCheck),
    setprivCheck(),
    natsServerCheck(options.ownBroker),
    rosCheck(),
  ]);
}

/** As a site sees it that is started from here. */
async function rosCheck(): Promise<Check> {
  const { ok, warning, none } = checksOf('ros');
  const { ROS_DISTRO: distro, ROS_DOMAIN_ID: domain = '0', RMW_IMPLEMENTATION: rmw } = process.env;
  if (missingRos(process.env) !== undefined) {
    return none('no ROS 2 is sourced here: functions with a ros trigger need one');
  }
  const found = `ROS 2 ${distro}, domain ${domain}${rmw === undefined ? '' : `, ${rmw}`}`;
  const client = rclnodejsFolder();
  if (client === undefined) {
    const advice =
      'Run "npm install --no-save rclnodejs@2.2.0" in the folder of Atoll with ROS sourced, or set ATOLL_RCLNODEJS to the folder of the module.';
    return warning(`${found}, but no rclnodejs: functions with a ros trigger are not ready`, advice);
  }
  return ok(`${found}; rclnodejs: ${client}`);
}

/** Only looked for: to import it may do harm. */
function rclnodejsFolder(): string | undefined {
  const { ATOLL_RCLNODEJS: given } = process.env;
  try {
    return dirname(createRequire(import.meta.url).resolve(given ?? 'rclnodejs'));
  } catch {
    return undefined;
  }
}

async function nodeCheck(runtime: FunctionSpec['runtime']): Promise<Check> {
  const { ok, problem } = checksOf(runtime);
  const advice = 'Install what the package pins: "npm ci --include=optional" in its folder.';
  try {
    const binary = nodeBinary(runtime);
    const { stdout } = await run(binary, ['--version'], { timeout: answerMs });
    return ok(`Node ${stdout.trim()}: ${binary}`);
  } catch (error) {
    return problem(faultOf(error).message, advice);
  }
}

async function setprivCheck(): Promise<Check> {
  const { ok, warning } = checksOf('setpriv');
  try {
    await run('setpriv', ['--pdeathsig', 'KILL', '--', 'true'], { timeout: answerMs });
    return ok('ends handler processes with their host');
  } catch {
    return warning(
      'setpriv with --pdeathsig is not in PATH: handler processes outlive a host that is killed',
      'Install util-linux 2.33 or newer.',
    );
  }
}

async function natsServerCheck(ownBroker: boolean): Promise<Check> {
  const { ok, warning, none } = checksOf('nats-server');
  const passedOver: string[] = [];
  const path = await findTool('nats-server', { log: (line) => passedOver.push(line) });
  const why = passedOver.length === 0 ? '' : `; ${passedOver.join('; ')}`;
  if (path === undefined) {
    const { atLeast } = tools['nats-server'].accepted;
    if (!ownBroker) return none('not installed, and not needed: the site uses another NATS server');
    return warning(
      `neither in PATH nor in ${cacheFolder()}${why}`,
      `"faas up" builds it at its first start, for which it needs Go; or put nats-server ${atLeast} or newer into PATH.`,
    );
  }
  const { stdout } = await run(path, ['--version'], { timeout: answerMs }).catch(() => ({ stdout: '' }));
  const version = /v[0-9.]+/.exec(stdout)?.[0] ?? 'of a version it does not tell';
  return ok(`${version}: ${path}${why}`);
}

/** `paths`: files of the site, whose times must not be later than now. */
export async function clockCheck(paths: SitePaths | undefined): Promise<Check> {
  const { ok, problem } = checksOf('clock');
  const now = Date.now();
  const { timeZone } = new Intl.DateTimeFormat().resolvedOptions();
  const seen = `${new Date(now).toISOString()}, time zone ${timeZone}`;
  const newest = paths === undefined ? undefined : await newestFile(paths);
  if (newest !== undefined && newest.time > now + futureMs) {
    return problem(
      `${seen}: ${newest.file} was written ${Math.round((newest.time - now) / 1000)} s later than now`,
      'Set the clock (timedatectl, chronyd): schedules, signatures and retries go by it.',
    );
  }
  return ok(seen);
}

async function newestFile(paths: SitePaths): Promise<{ file: string; time: number } | undefined> {
  const files = [paths.version, paths.site, paths.id];
  for (const folder of [paths.run, paths.logs]) {
    files.push(...(await readdir(folder).catch(() => [])).map((name) => join(folder, name)));
  }
  let newest: { file: string; time: number } | undefined;
  for (const file of files) {
    const time = (await stat(file).catch(() => undefined))?.mtimeMs;
    if (time !== undefined && (newest === undefined || time > newest.time)) newest = { file, time };
  }
  return newest;
}
