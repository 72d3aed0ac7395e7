/**
 * A Prometheus histogram whose observation is one addition in an array: prom-client's own hashes all labels at each
 * one, 1 µs that every event would pay three times.
 */
import type { MetricValueWithName, Registry } from 'prom-client';

export interface HistogramOptions {
  readonly name: string;
  readonly help: string;
  readonly labelNames: readonly string[];
  /** Upper bounds, ascending; one without a bound follows them. */
  readonly buckets: readonly number[];
  readonly registry: Registry;
}

export interface Histogram {
  /** For as long as the process runs: what was observed is never forgotten, as with prom-client's. */
  labels(...values: string[]): Observed;
}

export interface Observed {
  observe(value: number): void;
}

export function openHistogram({ name, help, labelNames, buckets, registry }: HistogramOptions): Histogram {
  const series = new Map<string, Series>();
  const metric = {
    name,
    help,
    type: 'histogram',
    get: () =>
      Promise.resolve({
        name,
        help,
        type: 'histogram',
        aggregator: 'sum',
        values: [...series.values()].flatMap((one) => one.values(name)),
      }),
    reset: () => series.clear(),
  };
  // Of a metric the registry reads the name and get() (prom-client, "Metric").
  registry.registerMetric(metric as never);
  return {
    labels(...given) {
      const key = JSON.stringify(given);
      let found = series.get(key);
      if (!found) {
        const labels = Object.fromEntries(labelNames.map((label, at) => [label, given[at] ?? '']));
        series.set(key, (found = new Series(labels, buckets)));
      }
      return found;
    },
  };
}

class Series implements Observed {
  readonly #labels: Readonly<Record<string, string>>;
  readonly #bounds: readonly number[];
  readonly #counts: Float64Array;
  #sum = 0;

  constructor(labels: Readonly<Record<string, string>>, bounds: readonly number[]) {
    this.#labels = labels;
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const bounds = this.#bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > bounds[bucket]!) bucket += 1;
    this.#counts[bucket]! += 1;
    this.#sum += value;
  }

  values(name: string): MetricValueWithName<string>[] {
    const values: MetricValueWithName<string>[] = [];
    let count = 0;
    for (const [at, bound] of [...this.#bounds, '+Inf'].entries()) {
      count += this.#counts[at]!;
      values.push({ metricName: `${name}_bucket`, labels: { ...this.#labels, le: bound }, value: count });
    }
    values.push({ metricName: `${name}_sum`, labels: this.#labels, value: this.#sum });
    values.push({ metricName: `${name}_count`, labels: this.#labels, value: count });
    return values;
  }
}
