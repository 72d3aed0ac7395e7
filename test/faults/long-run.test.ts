/** A site that goes on for long: what it holds must not grow with what it has handled. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { jetstreamManager } from '@nats-io/jetstream';
import { expect } from 'vitest';
import { pssBytes } from '../../bench/frame/processes.ts';
import type { LivingProcess, Site } from '../e2e/site.ts';
import { testFault, type Watch, type World } from './fire.ts';
import { scale, soak } from './scale.ts';

const sampleMs = soak ? 5_000 : 250;
const mebibyte = 1024 * 1024;
/** Between the middle and the last third: what a garbage collector leaves for later is no leak. */
const allowed = { share: 1.15, bytes: 32 * mebibyte, descriptors: 8, files: 2 };

interface Sample {
  /** By part of the site. */
  readonly bytes: Record<string, number>;
  readonly descriptors: Record<string, number>;
  readonly consumers: number;
  /** Below the site's folder, without what nats-server keeps its streams in. */
  readonly files: number;
}

testFault({
  name: 'the site works for long, and nothing grows',
  mqtt: 'nats-server',
  times: 0,
  events: scale.longRunEvents,
  watch,
});

function watch({ site }: World): Watch {
  const samples: Sample[] = [];
  const failures: unknown[] = [];
  let looking = Promise.resolve();
  const timer = setInterval(() => {
    looking = looking
      .then(async () => void samples.push(await look(site)))
      .catch((e: unknown) => void failures.push(e));
  }, sampleMs);
  return {
    async stop() {
      clearInterval(timer);
      await looking;
      expect(failures).toEqual([]);
      judge(samples);
    },
  };
}

function judge(samples: readonly Sample[]): void {
  const third = Math.floor(samples.length / 3);
  expect(third).toBeGreaterThan(2);
  const [first, middle, last] = [0, third, samples.length - third].map((from) =>
    samples.slice(from, from + third),
  ) as [Sample[], Sample[], Sample[]];
  const rows: { what: string; unit: string; values: number[]; most: (middle: number) => number }[] = [
    ...Object.keys(samples[0]!.bytes).map((part) => ({
      what: part,
      unit: 'MiB',
      values: [first, middle, last].map((of) => median(of, ({ bytes }) => (bytes[part] ?? 0) / mebibyte)),
      most: (before: number) => before * allowed.share + allowed.bytes / mebibyte,
    })),
    ...Object.keys(samples[0]!.descriptors).map((part) => ({
      what: part,
      unit: 'descriptors',
      values: [first, middle, last].map((of) => median(of, ({ descriptors }) => descriptors[part] ?? 0)),
      most: (before: number) => before + allowed.descriptors,
    })),
    ...(['consumers', 'files'] as const).map((unit) => ({
      what: 'site',
      unit,
      values: [first, middle, last].map((of) => median(of, (sample) => sample[unit])),
      // A log is turned over into a file more, three times at most.
      most: (before: number) => before + (unit === 'files' ? allowed.files : 0),
    })),
  ];
  const lines = rows.map(
    ({ what, unit, values }) =>
      `  ${what.padEnd(16)} ${unit.padEnd(12)} ${values.map((value) => value.toFixed(1).padStart(9)).join('')}`,
  );
  process.stdout.write(`medians of each third of ${samples.length} looks\n${lines.join('\n')}\n`);
  for (const { what, unit, values, most } of rows) {
    const [, before, after] = values as [number, number, number];
    expect(after, `${what}: ${unit}`).toBeLessThanOrEqual(most(before));
  }
}

function median(samples: readonly Sample[], of: (sample: Sample) => number): number {
  const values = samples.map(of).sort((a, b) => a - b);
  return values[Math.floor(values.length / 2)]!;
}

async function look(site: Site): Promise<Sample> {
  const bytes: Record<string, number> = {};
  const descriptors: Record<string, number> = {};
  for (const process of site.processes()) {
    const part = process.pid === site.info.pid ? 'faas up' : partOf(process);
    if (part === undefined) continue;
    bytes[part] = (bytes[part] ?? 0) + pssBytes([process.pid]);
    descriptors[part] = (descriptors[part] ?? 0) + readdirSync(`/proc/${process.pid}/fd`).length;
  }
  const nats = await site.nats();
  try {
    const manager = await jetstreamManager(nats);
    let consumers = 0;
    for await (const { state } of manager.streams.list()) consumers += state.consumer_count;
    return { bytes, descriptors, consumers, files: filesBelow(site.dir) };
  } finally {
    await nats.close();
  }
}

const parts = { 'runtime/main': 'host', 'invoker/child': 'handlers', 'nats-server': 'nats-server' };

function partOf({ commandLine }: LivingProcess): string | undefined {
  return Object.entries(parts).find(([name]) => commandLine.includes(name))?.[1];
}

function filesBelow(folder: string): number {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).filter(
    (entry) => entry.isFile() && !join(entry.parentPath, entry.name).startsWith(join(folder, 'nats')),
  ).length;
}
