/** The links of a hub's robots, as Prometheus reads them. A robot is a machine of the site, and there are few. */
import { Counter, Gauge, Registry } from 'prom-client';
import type { RobotPresence } from './presence.ts';
import type { KeptTelemetry } from './telemetry-room.ts';

export interface RobotMetrics {
  readonly registry: Registry;
  /** Asked for at each scrape. */
  text(): Promise<string>;
}

export function openRobotMetrics(hub: {
  list(): Promise<readonly RobotPresence[]>;
  kept(): Promise<KeptTelemetry | undefined>;
}): RobotMetrics {
  const registry = new Registry();
  const options = (name: string, help: string) => ({
    name,
    help,
    labelNames: ['robot'],
    registers: [registry],
  });
  const gauge = (name: string, help: string): Gauge => new Gauge(options(name, help));
  const connected = gauge('atoll_robot_connected', '1 while the robot is heard');
  const roundTrip = gauge('atoll_robot_round_trip_seconds', 'Over the link and back');
  const lagMessages = gauge('atoll_robot_lag_messages', 'Kept on the robot and not at the hub');
  const lagSeconds = gauge('atoll_robot_lag_seconds', 'Since when there are such messages');
  const ready = gauge('atoll_robot_functions_ready', 'Functions of its site that are ready');
  const functions = gauge('atoll_robot_functions', 'Functions of its site');
  const telemetry = gauge(
    'atoll_robot_last_telemetry_timestamp_seconds',
    "When the hub stored the robot's newest kept message",
  );
  const dropped = new Counter(
    options(
      'atoll_robot_dropped_messages_total',
      'Kept messages that the robot lost before the hub had them',
    ),
  );
  const ofHub = (name: string, help: string) => ({ name, help, registers: [registry] });
  const bytes = new Gauge(ofHub('atoll_hub_telemetry_bytes', 'Of all robots, kept at the hub'));
  const maxBytes = new Gauge(
    ofHub('atoll_hub_telemetry_limit_bytes', 'As much is kept; then the oldest goes'),
  );
  const gaveWay = new Counter(
    ofHub('atoll_hub_telemetry_dropped_messages_total', 'Oldest messages that gave way at the hub'),
  );

  return {
    registry,
    async text() {
      // Robots that were removed are not shown any more.
      registry.resetMetrics();
      for (const one of await hub.list()) {
        const { robot } = one;
        const set = (metric: Gauge, value: number | undefined): void => {
          if (value !== undefined) metric.labels(robot).set(value);
        };
        set(connected, one.online ? 1 : 0);
        set(roundTrip, one.rttMs === undefined ? undefined : one.rttMs / 1_000);
        set(lagMessages, one.lag?.messages);
        set(lagSeconds, one.lag?.seconds);
        set(ready, one.functions?.ready);
        set(functions, one.functions?.total);
        set(telemetry, one.lastTelemetry === undefined ? undefined : Date.parse(one.lastTelemetry) / 1_000);
        dropped.labels(robot).inc(one.dropped);
      }
      const kept = await hub.kept();
      bytes.set(kept?.bytes ?? 0);
      if (kept) maxBytes.set(kept.maxBytes);
      gaveWay.inc(kept?.dropped ?? 0);
      return await registry.metrics();
    },
  };
}
