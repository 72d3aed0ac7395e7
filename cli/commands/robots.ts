import { setTimeout as pause } from 'node:timers/promises';
import type { RobotPresence } from '../../controller/broker/presence.ts';
import type { KeptTelemetry } from '../../controller/broker/telemetry-room.ts';
import { defineCommand } from '../command.ts';
import { bytesText } from '../doctor/check.ts';
import { age, note, print, printData, table } from '../output.ts';
import { openRunningSite } from '../site.ts';

const watchMs = 2_000;

export const command = defineCommand({
  namespaced: false,
  positionals: {},
  options: {
    watch: {
      type: 'boolean',
      alias: 'w',
      default: false,
      describe: 'Again every 2 s, until it is told to stop; with -o json a line each time',
    },
  },
  description:
    'LAG is what the robot has kept for the hub and the hub has not got yet, as far as the robot told, and for how long; DROPPED what the robot had no room to keep for so long. RTT is over the link and back, TELEMETRY how long ago the hub stored the newest of what the robot keeps for it.',
  examples: [
    ['robots', 'The robots of a hub, and how each is'],
    ['robots --watch', 'Again every 2 s'],
    ['robots -o json', 'For programs'],
  ],
  async run({ site, context, output, watch }) {
    const { gateway } = await openRunningSite({ site, context });
    for (;;) {
      const { robots, kept } = await gateway.robots();
      if (output === 'json' && watch) print(JSON.stringify(robots));
      else if (output === 'json' || output === 'yaml') await printData(robots, output);
      else if (robots.length === 0) note('There are no robots; "faas robot add ID" adds one.');
      else {
        print(robotTable(robots, Date.now()));
        if (kept !== undefined) note(keptText(kept));
      }
      if (!watch) return;
      await pause(watchMs);
      if (output === undefined) print('');
    }
  },
});

function keptText({ messages, bytes, maxBytes, dropped }: KeptTelemetry): string {
  const gaveWay = dropped === 0 ? '' : `; ${dropped} gave way, the oldest first`;
  return `Kept of all: ${messages} messages, ${bytesText(bytes)} of ${bytesText(maxBytes)}${gaveWay}`;
}

export function robotTable(robots: readonly RobotPresence[], now: number): string {
  const header = [
    'ROBOT',
    'STATE',
    'SINCE',
    'ADDRESS',
    'RTT',
    'LAG',
    'DROPPED',
    'TELEMETRY',
    'FUNCTIONS READY',
  ];
  const rows = robots.map((one) => {
    const { robot, online, since, address, rttMs, lag, dropped, lastTelemetry, functions, keys } = one;
    return [
      robot,
      online ? 'online' : keys === 0 ? 'refused' : since === undefined ? 'never seen' : 'offline',
      since === undefined ? '' : age(now - Date.parse(since)),
      address ?? '',
      rttMs === undefined ? '' : `${rttMs.toFixed(1)} ms`,
      lag === undefined ? '' : `${lag.messages} (${lag.seconds} s)`,
      String(dropped),
      lastTelemetry === undefined ? '' : age(now - Date.parse(lastTelemetry)),
      functions === undefined ? '' : `${functions.ready}/${functions.total}`,
    ];
  });
  return table(header, rows);
}
