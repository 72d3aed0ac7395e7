/** The ROS process of a machine: there while something needs it, and started again when it ends. */
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { RosProcessConfig, RosSettings } from '../../runtime/config.ts';
import type { Log } from '../../runtime/log.ts';
import { compileCacheFolder } from '../../runtime/process/compile-cache.ts';
import { supervise, type Supervised } from '../../runtime/process/supervise.ts';
import { writeAtomically } from '../stores/atomic-file.ts';
import { markProcess, type Marks } from '../stores/process-marks.ts';
import type { SitePaths } from '../stores/site.ts';
import type { LogFiles } from './log-files.ts';
import { rawLine } from './log-sorter.ts';

export interface RosOptions {
  /** Absolute; names without a slash first are below it. Default: `/`. */
  readonly namespace?: string | undefined;
  /** Default: that of our environment, else 0. */
  readonly domainId?: number | undefined;
  /** True: also while no function has a ros trigger, for functions that only call and publish. */
  readonly always?: boolean | undefined;
}

export interface RosProcessParts {
  readonly paths: SitePaths;
  readonly site: string;
  /** Where it is to listen. */
  readonly socket: string;
  readonly node: string;
  readonly logFiles: LogFiles;
  readonly options: RosOptions;
  readonly log: Log;
}

export interface LocalRosProcess {
  /** For the hosts of the machine. */
  readonly settings: RosSettings;
  /** Whether a function has a ros trigger. Starts or stops the process; returns at once. */
  need(needed: boolean): void;
  close(): Promise<void>;
}

/** What ROS, its middleware and the loader of its libraries go by. Of the rest of our environment, what a host gets. */
const rosVariables =
  /^(PATH|HOME|USER|LANG|LC_[A-Z]+|TZ|TMPDIR|XDG_CACHE_HOME|ATOLL_[A-Z]+|LD_LIBRARY_PATH|PYTHONPATH|(ROS|RMW|RCL|RCUTILS|AMENT|COLCON|CMAKE|FASTDDS|FASTRTPS|CYCLONEDDS|ZENOH)_[A-Z0-9_]+|CYCLONEDDS_URI|_ROS_[A-Z_]+)$/;
const readyMs = 60_000;

export function openRosProcess(parts: RosProcessParts): LocalRosProcess {
  const { paths, socket, options, log } = parts;
  const missing = missingRos(process.env);
  const configFile = join(paths.run, 'ros.json');
  const logFile = join(paths.logs, 'ros.jsonl');
  let running: { child: Supervised; marks: Marks } | undefined;
  let wanted = false;
  let closed = false;
  let changing = Promise.resolve();

  function change(): void {
    changing = changing.then(async () => {
      const on = wanted && !closed;
      if (on && running === undefined) running = await start();
      else if (!on && running !== undefined) {
        const { child, marks } = running;
        running = undefined;
        await child.stop();
        await marks.written();
      }
    });
    changing = changing.catch((error: unknown) =>
      log.error({ err: error }, 'the ROS process cannot be started'),
    );
  }

  async function start(): Promise<{ child: Supervised; marks: Marks }> {
    const { namespace } = options;
    const config: RosProcessConfig = {
      site: parts.site,
      socket,
      ...(namespace !== undefined && { namespace }),
    };
    await writeAtomically(configFile, JSON.stringify(config));
    const marks = markProcess(paths.run, { name: 'ros' }, log);
    const child = supervise({
      name: 'ros',
      command: parts.node,
      args: [mainFile(), configFile],
      env: environment(options),
      ready: (starting) => starting.line((line) => line.includes('"message":"ROS process ready"')),
      readyTimeoutMs: readyMs,
      onLine: (line, stream) => parts.logFiles.append(logFile, rawLine(line, stream)),
      onState(state) {
        marks.onState(state);
        if (state.kind === 'waiting') {
          log.error(
            { reason: state.reason, delayMs: state.delayMs },
            'the ROS process ended; it is started again',
          );
        }
      },
    });
    return { child, marks };
  }

  function need(needed: boolean): void {
    const next = missing === undefined && (needed || options.always === true);
    if (next === wanted) return;
    wanted = next;
    change();
  }

  need(false);
  return {
    settings: missing === undefined ? { socket } : { missing },
    need,
    async close() {
      closed = true;
      change();
      await changing;
    },
  };
}

/** Why there is no ROS in this environment; undefined when there is one. */
export function missingRos(env: NodeJS.ProcessEnv): string | undefined {
  const unset = ['AMENT_PREFIX_PATH', 'ROS_DISTRO'].filter((name) => !env[name]);
  if (unset.length === 0) return undefined;
  return `no ROS 2 was sourced when the site was started (${unset.join(' and ')} not set): install ROS 2, run ". /opt/ros/<distro>/setup.sh" and start "faas up" again (docs/reference/ros.md)`;
}

function environment({ domainId }: RosOptions): NodeJS.ProcessEnv {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => rosVariables.test(name)));
  const cache = compileCacheFolder();
  return {
    ...env,
    ...(cache !== undefined && { NODE_COMPILE_CACHE: cache }),
    ...(domainId !== undefined && { ROS_DOMAIN_ID: String(domainId) }),
  };
}

/** Beside us in the same form: sources as sources, built as built. */
function mainFile(): string {
  return fileURLToPath(new URL(`../../runtime/ros/main${extname(import.meta.url)}`, import.meta.url));
}
