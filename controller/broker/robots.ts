/** The robots that a hub lets in, by public keys: one file each, in the folder of the site. */
import { watch } from 'node:fs';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { nkeys } from '@nats-io/nats-core';
import { AtollError } from '../../runtime/errors.ts';
import { folderMode, isMissing, writeAtomically } from '../stores/atomic-file.ts';
import type { RobotUser } from './configuration.ts';

/** The hub's own name is one of a site, as a robot's id is. */
export const hubSite = 'hub';
const reservedIds: readonly string[] = [hubSite, 'local'];
const idPattern = /^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$/;
/** How long keys that were replaced are good for, unless told otherwise. */
export const overlapMs = 24 * 3_600_000;
/** A change that the file system does not tell of, and keys whose time is over. */
const lookMs = 5_000;

export interface RobotKeys {
  readonly link: string;
  readonly claim: string;
  /** ISO 8601. */
  readonly since: string;
  /** ISO 8601; from then on they open nothing. Absent: until they are replaced or the robot is removed. */
  readonly until?: string;
}

export interface Robot {
  readonly id: string;
  readonly keys: readonly RobotKeys[];
}

/** What only the robot has. `link`, `claim`: seeds. */
export interface RobotSecrets {
  readonly robot: string;
  readonly link: string;
  readonly claim: string;
}

/** Puts the secrets where they are carried from; before the hub takes the keys over, which nobody may have otherwise. */
export type Deliver = (secrets: RobotSecrets) => Promise<void>;

export interface Robots {
  /** In the order of their ids. */
  list(): Promise<Robot[]>;
  /** Rejects with InvalidRequest when the id is none, or taken; and as `deliver`, and nothing is changed then. */
  add(id: string, deliver?: Deliver): Promise<RobotSecrets>;
  /**
   * New keys; those before are good for `keepMs` more. Rejects with InvalidRequest when there is no such robot, and as
   * `deliver`, and nothing is changed then.
   */
  rotate(id: string, keepMs?: number, deliver?: Deliver): Promise<RobotSecrets>;
  /** Rejects with InvalidRequest when there is no such robot. */
  remove(id: string): Promise<void>;
  /** Calls back after a change, now and then also without one. Returns the way to stop. */
  watch(listener: () => void): () => void;
}

export function openRobots(siteDir: string, now: () => number = Date.now): Robots {
  const dir = join(siteDir, 'robots');
  const fileOf = (id: string): string => join(dir, `${id}.json`);

  async function read(id: string): Promise<Robot | undefined> {
    const text = await readFile(fileOf(id), 'utf8').catch((error: unknown) => {
      if (isMissing(error)) return undefined;
      throw error;
    });
    if (text === undefined) return undefined;
    try {
      const { keys } = JSON.parse(text) as Robot;
      return { id, keys: keys.filter(({ link, claim }) => isUserKey(link) && isUserKey(claim)) };
    } catch {
      throw new AtollError('InvalidRequest', `${fileOf(id)} is damaged: remove it and add the robot anew`);
    }
  }

  async function mustRead(id: string): Promise<Robot> {
    const robot = idPattern.test(id) ? await read(id) : undefined;
    if (robot !== undefined) return robot;
    const known = (await ids()).join(', ');
    throw new AtollError('InvalidRequest', `there is no robot "${id}"; there are: ${known || 'none'}`);
  }

  async function ids(): Promise<string[]> {
    const entries = await readdir(dir).catch((error: unknown) => {
      if (isMissing(error)) return [];
      throw error;
    });
    return entries
      .filter((entry) => entry.endsWith('.json'))
      .map((entry) => entry.slice(0, -'.json'.length))
      .filter((id) => idPattern.test(id))
      .sort();
  }

  async function write({ id, keys }: Robot): Promise<void> {
    await mkdir(dir, { recursive: true, mode: folderMode });
    await writeAtomically(fileOf(id), `${JSON.stringify({ id, keys }, null, 2)}\n`);
  }

  async function issue(id: string, before: readonly RobotKeys[], deliver?: Deliver): Promise<RobotSecrets> {
    const [link, claim] = [nkeys.createUser(), nkeys.createUser()];
    const since = new Date(now()).toISOString();
    const fresh = { link: link.getPublicKey(), claim: claim.getPublicKey(), since };
    const seedOf = (pair: typeof link): string => Buffer.from(pair.getSeed()).toString('ascii');
    const secrets = { robot: id, link: seedOf(link), claim: seedOf(claim) };
    await deliver?.(secrets);
    await write({ id, keys: [...before, fresh] });
    return secrets;
  }

  return {
    async list() {
      const robots = await Promise.all((await ids()).map(read));
      return robots.filter((robot) => robot !== undefined);
    },
    async add(id, deliver) {
      refuseId(id);
      if ((await read(id)) !== undefined) {
        throw new AtollError(
          'InvalidRequest',
          `there is a robot "${id}" already: rotate its keys, or remove it`,
        );
      }
      return await issue(id, [], deliver);
    },
    async rotate(id, keepMs = overlapMs, deliver) {
      const { keys } = await mustRead(id);
      const until = new Date(now() + keepMs).toISOString();
      const newest = keys.at(-1);
      // Of older ones the time is set already; more than two would only hide who still uses which.
      return await issue(id, newest === undefined ? [] : [{ ...newest, until }], deliver);
    },
    async remove(id) {
      await mustRead(id);
      await rm(fileOf(id), { force: true });
    },
    watch(listener) {
      const timer = setInterval(listener, lookMs);
      timer.unref();
      const stopping = new AbortController();
      void mkdir(dir, { recursive: true, mode: folderMode }).then(
        () => {
          if (stopping.signal.aborted) return;
          // What it does not tell is seen by the timer.
          watch(dir, { signal: stopping.signal }, () => listener()).on('error', () => {});
        },
        () => {},
      );
      return () => {
        clearInterval(timer);
        stopping.abort();
      };
    },
  };
}

/** Those whose keys open something at that time. */
export function robotUsers(robots: readonly Robot[], now: number): RobotUser[] {
  return robots.flatMap(({ id, keys }) =>
    keys
      .filter(({ until }) => until === undefined || now < Date.parse(until))
      .map(({ link, claim }) => ({ robot: id, link, claim })),
  );
}

export function refuseId(id: string): void {
  if (!idPattern.test(id)) {
    throw new AtollError(
      'InvalidRequest',
      `"${id}" cannot be a robot's id: a small letter, then up to 51 small letters, digits or "-", the last no "-"`,
    );
  }
  if (reservedIds.includes(id)) {
    throw new AtollError('InvalidRequest', `"${id}" is a name of sites of ours; a robot needs another id`);
  }
}

const isUserKey = (key: unknown): boolean => typeof key === 'string' && /^U[A-Z2-7]{55}$/.test(key);
