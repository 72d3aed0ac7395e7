import { expect, test } from 'vitest';
import { openRobotMetrics } from '../../../controller/broker/robot-metrics.ts';
import type { RobotPresence } from '../../../controller/broker/presence.ts';
import type { KeptTelemetry } from '../../../controller/broker/telemetry-room.ts';

const linked: RobotPresence = {
  robot: 'robot1',
  online: true,
  rttMs: 4.5,
  lag: { messages: 12, seconds: 3.5 },
  dropped: 7,
  functions: { ready: 1, total: 2 },
  lastTelemetry: '2026-11-28T12:00:00.500Z',
  keys: 1,
};

test('the links of robots are told in base units, as they are now', async () => {
  let robots: RobotPresence[] = [linked, { robot: 'robot2', online: false, dropped: 0, keys: 1 }];
  let kept: KeptTelemetry | undefined = { messages: 3, bytes: 4_096, maxBytes: 8_192, dropped: 5 };
  const metrics = openRobotMetrics({ list: async () => robots, kept: async () => kept });
  const text = await metrics.text();
  for (const line of [
    'atoll_robot_connected{robot="robot1"} 1',
    'atoll_robot_connected{robot="robot2"} 0',
    'atoll_robot_round_trip_seconds{robot="robot1"} 0.0045',
    'atoll_robot_lag_messages{robot="robot1"} 12',
    'atoll_robot_lag_seconds{robot="robot1"} 3.5',
    'atoll_robot_dropped_messages_total{robot="robot1"} 7',
    'atoll_robot_functions_ready{robot="robot1"} 1',
    'atoll_robot_functions{robot="robot1"} 2',
    'atoll_hub_telemetry_bytes 4096',
    'atoll_hub_telemetry_limit_bytes 8192',
    'atoll_hub_telemetry_dropped_messages_total 5',
    `atoll_robot_last_telemetry_timestamp_seconds{robot="robot1"} ${Date.parse('2026-11-28T12:00:00.500Z') / 1_000}`,
  ]) {
    expect(text.split('\n')).toContain(line);
  }
  // Of what was never measured there is nothing, rather than a zero.
  expect(text).not.toContain('round_trip_seconds{robot="robot2"}');

  robots = [{ robot: 'robot1', online: false, dropped: 7, keys: 1 }];
  kept = undefined;
  const later = await metrics.text();
  expect(later).toContain('atoll_robot_dropped_messages_total{robot="robot1"} 7');
  expect(later).not.toContain('atoll_robot_lag_messages{robot="robot1"}');
  expect(later).not.toContain('robot2');
  expect(later).toContain('atoll_hub_telemetry_dropped_messages_total 0');
});
