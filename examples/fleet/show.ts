/** `npm start -- --robots N`: a hub, N robots that are simulated, and what goes between them. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { table } from '../tour.ts';
import { startFleet, type Fleet } from './fleet.ts';
import { installRos } from './ros.ts';
import { tourFleet } from './tour.ts';

/** Each is six processes. */
export const maxRobots = 6;
const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

export interface ShowOptions {
  readonly robots: number;
  /** Ends after the tour; else stays up until it is told to stop. */
  readonly once: boolean;
  readonly tell: (line: string) => void;
}

/** Resolves with the exit code, after all that it started has ended: 1 when something was not answered. */
export async function showFleet({ robots, once, tell }: ShowOptions): Promise<number> {
  const stops: (() => Promise<void>)[] = [];
  let isClosed = false;
  const later = (stop: () => Promise<void>): void => {
    if (isClosed) void stop();
    else stops.push(stop);
  };
  const interrupted = Promise.withResolvers<number>();
  for (const [signal, code] of Object.entries(exitCodes)) {
    process.once(signal, () => interrupted.resolve(code));
  }

  async function show(): Promise<number> {
    const withRos = await installRos();
    const dir = await mkdtemp(join(tmpdir(), 'atoll-robots-'));
    // A process that was just ended may still be writing its last file: removing is tried again.
    later(() => rm(dir, { recursive: true, force: true, maxRetries: 5 }));
    const fleet = await startFleet({ dir, robots, withRos, tell, later });
    const results = await tourFleet(fleet, tell);
    console.log(`${table(results, { trigger: 'WHAT', name: 'ROBOT' })}\n`);
    if (results.some(({ ok }) => !ok)) return 1;
    if (once) return 0;
    console.log(advice(fleet));
    return await interrupted.promise;
  }

  const showing = show();
  // After a signal it may fail at what is ended under it, and nobody is interested any more.
  showing.catch(() => undefined);
  try {
    return await Promise.race([showing, interrupted.promise]);
  } catch (error) {
    tell(error instanceof Error ? error.message : String(error));
    return 1;
  } finally {
    isClosed = true;
    for (let stop = stops.pop(); stop !== undefined; stop = stops.pop()) await stop();
  }
}

const advice = ({
  hub,
  robots,
}: Fleet): string => `The hub and its robots run until Ctrl-C, and are gone then. Try in another terminal:
  npx faas robots --watch --site ${hub.dir}
  npx faas logs telemetry --robot robot1 -f --site ${hub.dir}
  curl ${robots[0]?.site.info.url}/telemetry/metrics
`;
