import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import { note, print, printData } from '../output.ts';

const actions = ['types'] as const;
const defaultFile = 'ros.d.ts';

export const command = defineCommand({
  namespaced: false,
  positionals: {
    action: { type: 'string', describe: 'What to do', required: true, choices: actions },
  },
  options: {
    out: {
      type: 'string',
      value: 'FILE',
      default: defaultFile,
      describe: 'types: the file to write; - prints it',
    },
    package: {
      type: 'string',
      array: true,
      value: 'NAME',
      describe: 'types: only this package of interfaces and what it is made of; else all that are present',
    },
  },
  description:
    'types: TypeScript of the messages and services of the ROS whose environment this shell has ($AMENT_PREFIX_PATH), for events, and for ros.publish and ros.call. It reads their text and runs nothing of ROS. 64-bit integers are bigint, arrays of numbers are typed arrays.',
  examples: [
    ['ros types', 'Writes ./ros.d.ts: import type { sensor_msgs } from "./ros.d.ts"'],
    ['ros types --package sensor_msgs --package std_srvs', 'Those alone, and what they are made of'],
    ['ros types --out - | less', 'To look at it'],
  ],
  async run({ out, package: packages, output }) {
    const ament = process.env['AMENT_PREFIX_PATH'] ?? '';
    if (ament === '') {
      throw new Failure(exitCodes.usage, 'there is no ROS here: $AMENT_PREFIX_PATH is not set', {
        advice: 'Set up its environment in this shell first, such as ". /opt/ros/jazzy/setup.sh".',
      });
    }
    // Only here: the parser is for this command alone.
    const { findInterfaces } = await import('../ros/interfaces.ts');
    const { rosTypes } = await import('../ros/types.ts');
    const { interfaces, problems } = await findInterfaces(ament);
    for (const { file, problem } of problems) note(`${file} is left out: ${problem}`);
    const present = [...new Set(interfaces.map(({ package: name }) => name))];
    if (present.length === 0) {
      throw new Failure(exitCodes.usage, `no interfaces lie below share/ of ${ament}`, {
        advice: 'Install packages with messages, such as ros-jazzy-common-interfaces.',
      });
    }
    const absent = packages?.find((name) => !present.includes(name));
    if (absent !== undefined) {
      throw usageError(
        `there are no interfaces of "${absent}" in $AMENT_PREFIX_PATH`,
        `Present are: ${present.join(', ')}.`,
      );
    }
    const { text, messages, services, missing } = rosTypes(interfaces, packages);
    for (const name of missing) note(`${name} is unknown: its package is not present`);
    if (out === '-') return print(text);
    const file = resolve(out);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, text);
    if (output === 'json' || output === 'yaml') {
      return printData({ file, messages, services, missing, problems }, output);
    }
    note(`${file}: ${messages} messages and ${services} services`);
  },
});
