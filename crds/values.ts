/** What the texts of a Function mean. Without the schema: a host needs nothing of that, and loads none of it. */
import type { TriggerKind, TriggerSources, TriggerSpec } from './function.ts';

export const triggerKinds = [
  'nats',
  'jetstream',
  'mqtt',
  'ros',
  'http',
  'schedule',
] as const satisfies TriggerKind[];

/** Of an entry of ros.topics, and of its short form, whose fields are absent where they do not belong. */
export const rosTopicDefaults = { raw: false, keepLast: 10, qos: 'auto' } as const;

/** The one source a trigger has. Validation guarantees that there is exactly one. */
export function sourceOf(
  trigger: TriggerSpec,
): { [K in TriggerKind]: { kind: K; source: TriggerSources[K] } }[TriggerKind] {
  for (const kind of triggerKinds) {
    const source = trigger[kind];
    if (source !== undefined) return { kind, source } as ReturnType<typeof sourceOf>;
  }
  throw new Error(`trigger "${trigger.name}" has no source`);
}

const units: Record<string, number> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  Ki: 1024,
  Mi: 1024 ** 2,
  Gi: 1024 ** 3,
};

/** Bytes of a Kubernetes quantity that fits the schema of spec.memory, fractions of a byte rounded up. */
export function memoryBytes(quantity: string): number {
  return Math.ceil(exactBytes(quantity));
}

/** The same with its fraction. */
export function exactBytes(quantity: string): number {
  const [, number = '', unit = ''] = /^([0-9.]+)([A-Za-z]*)$/.exec(quantity) ?? [];
  const factor = units[unit];
  if (!number || factor === undefined) throw new RangeError(`"${quantity}" is not a quantity such as 128Mi`);
  return Number(number) * factor;
}

/** Milliseconds of spec.triggers[].schedule.every. */
export function everyMs(every: string): number {
  const [, count, unit] = /^([0-9]+)(ms|s|m|h|d)$/.exec(every) ?? [];
  const unitMs = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[unit ?? ''];
  if (unitMs === undefined) throw new RangeError(`"${every}" is not an interval such as 500ms or 5m`);
  return Number(count) * unitMs;
}

/** The two parts of spec.handler, as Lambda reads it: `src/app.api.get` is the export `api.get` of `src/app`. */
export function parseHandler(handler: string): { file: string; export: string } {
  const dot = handler.indexOf('.', handler.lastIndexOf('/') + 1);
  if (dot <= 0 || dot === handler.length - 1) {
    throw new RangeError(`"${handler}" is not <file without extension>.<export>`);
  }
  return { file: handler.slice(0, dot), export: handler.slice(dot + 1) };
}
