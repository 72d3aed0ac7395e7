/** The one file that is carried from the hub to a robot: who it is, its private keys, whom it may trust. */
import { unwatchFile, watchFile } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { AtollError, faultOf } from '../../runtime/errors.ts';
import type { Log } from '../../runtime/log.ts';
import { refuseId, type RobotSecrets } from './robots.ts';
import { usualPorts } from './nats-server.ts';

export interface RobotFile extends RobotSecrets {
  /** The site of the hub: its JetStream domain. */
  readonly hub: string;
  /** Where the hub's listeners are, unless its address says otherwise. */
  readonly ports: { readonly leaf: number; readonly websocket?: number };
  /** PEM: whose certificates count. Absent: those that the system knows. */
  readonly ca?: string;
}

/** Rejects with InvalidRequest, without a word of what is in it. */
export async function readRobotFile(file: string): Promise<RobotFile> {
  const refuse = (why: string): AtollError => new AtollError('InvalidRequest', `${file} ${why}`);
  if (((await stat(file)).mode & 0o077) !== 0) {
    throw refuse(`holds private keys and others may read it: chmod 600 ${file}`);
  }
  let read: Partial<RobotFile> | null;
  try {
    read = JSON.parse(await readFile(file, 'utf8')) as Partial<RobotFile> | null;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw refuse('is not what "faas robot add" wrote: it is no JSON');
  }
  const { robot = '', hub = '', link = '', claim = '', ports, ca } = read ?? {};
  refuseId(robot);
  if (!isSeed(link) || !isSeed(claim) || hub === '') {
    throw refuse('is not what "faas robot add" wrote: a key is missing or damaged');
  }
  return { robot, hub, link, claim, ports: ports ?? { leaf: usualPorts.leaf }, ...(ca && { ca }) };
}

/** It may lie on a file system that tells nothing of its changes. */
const lookMs = 2_000;

/**
 * Calls back with what the file says after it was replaced or changed. One that is no file of that robot is logged and
 * changes nothing. Returns the way to stop.
 */
export function watchRobotFile(
  file: string,
  robot: string,
  listener: (content: RobotFile) => void,
  log: Log,
): () => void {
  async function read(): Promise<void> {
    try {
      const content = await readRobotFile(file);
      if (content.robot === robot) return listener(content);
      log.warn({ robot, file }, `the keys in the file are those of "${content.robot}": it changes nothing`);
    } catch (error) {
      log.warn({ robot, file, error: faultOf(error).message }, 'the file of the robot changes nothing');
    }
  }
  const look = (): void => void read();
  watchFile(file, { interval: lookMs, persistent: false }, look);
  return () => unwatchFile(file, look);
}

const isSeed = (text: unknown): boolean => typeof text === 'string' && /^SU[A-Z2-7]{56}$/.test(text);

/** `tls://hub` and the like with the port where the hub listens; rejects with InvalidRequest what is no such address. */
export function hubUrl(given: string, { leaf, websocket }: RobotFile['ports']): string {
  const schemes: Readonly<Record<string, number>> = {
    'tls:': leaf,
    'nats:': leaf,
    'nats-leaf:': leaf,
    'ws:': websocket ?? usualPorts.websocket,
    'wss:': websocket ?? 443,
  };
  const url = URL.canParse(given) ? new URL(given) : undefined;
  const port = url && schemes[url.protocol];
  if (url === undefined || port === undefined || url.hostname === '') {
    throw new AtollError(
      'InvalidRequest',
      `--hub must be tls://HOST, wss://HOST or, without encryption, nats://HOST or ws://HOST`,
    );
  }
  if (url.username !== '') {
    throw new AtollError('InvalidRequest', '--hub has credentials in it; those of a robot are its keys');
  }
  const scheme = url.protocol === 'nats:' ? 'nats-leaf:' : url.protocol;
  // URL drops a port that is the scheme's usual one.
  const explicit = url.port !== '' ? url.port : /^wss?:\/\/[^/]*:(80|443)(\/|$)/.exec(given)?.[1];
  const path = url.pathname.replace(/\/$/, '');
  return `${scheme}//${url.hostname}:${explicit ?? port}${path}`;
}
