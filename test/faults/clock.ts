/** A wall clock that can jump under a running site; the monotonic one goes on, as when somebody sets the time. */
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { findOnPath } from '../../tools/command.ts';
import type { Closing } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { requireTool } from '../support/requirement.ts';

export interface Clock {
  /** Of `faas up`; what it starts has the clock too. */
  readonly env: Readonly<Record<string, string>>;
  /** For `spec.env`: a handler process forgets all other variables, and with them this clock. */
  readonly variables: readonly { readonly name: string; readonly value: string }[];
  /** So far from the true time, such as `+1h`. */
  jump(offset: string): Promise<void>;
}

export async function startClock({ closing }: { closing: Closing }): Promise<Clock> {
  await requireTool('faketime');
  const folder = await temporaryFolder({ closing });
  const file = join(folder, 'time');
  const jump = async (offset: string): Promise<void> => {
    await writeFile(`${file}.next`, `${offset}\n`);
    await rename(`${file}.next`, file);
  };
  await jump('+0');
  const variables = {
    LD_PRELOAD: await library(),
    FAKETIME_TIMESTAMP_FILE: file,
    // Read at every look at the clock.
    FAKETIME_NO_CACHE: '1',
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
    DONT_FAKE_MONOTONIC: '1',
  };
  // The host and handler processes get no environment of ours but a PATH, and are started with its setpriv.
  const setpriv = findOnPath('setpriv', process.env, ['/usr/bin']);
  if (setpriv === undefined) throw new Error('setpriv is missing (Debian: util-linux)');
  const bin = join(folder, 'bin');
  await mkdir(bin);
  const settings = Object.entries(variables).map(([name, value]) => `export ${name}='${value}'`);
  await writeFile(join(bin, 'setpriv'), ['#!/bin/sh', ...settings, `exec ${setpriv} "$@"`, ''].join('\n'), {
    mode: 0o755,
  });
  return {
    env: { ...variables, PATH: [bin, process.env['PATH']].join(delimiter) },
    variables: Object.entries(variables)
      .filter(([name]) => name !== 'LD_PRELOAD')
      .map(([name, value]) => ({ name, value })),
    jump,
  };
}

/** For programs with threads; its folder is named for the machine's architecture. */
async function library(): Promise<string> {
  for (const folder of await readdir('/usr/lib')) {
    const found = join('/usr/lib', folder, 'faketime');
    const names = await readdir(found).catch((): string[] => []);
    if (names.includes('libfaketimeMT.so.1')) return join(found, 'libfaketimeMT.so.1');
  }
  throw new Error('libfaketime is missing (Debian: libfaketime)');
}
