import { expect, test } from 'vitest';
import { merge } from '../../gateway/metrics.ts';

test('a family stands once, with the samples of all who have it', () => {
  const host = `# HELP process_cpu_seconds_total CPU
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1.5

# HELP atoll_invocations_total Invocations
# TYPE atoll_invocations_total counter
atoll_invocations_total{namespace="default",function="a"} 3
`;
  const controller = `# HELP process_cpu_seconds_total CPU
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 0.5
# TYPE gc_seconds histogram
gc_seconds_bucket{le="+Inf"} 2
gc_seconds_sum 1
`;
  expect(
    merge([
      { component: 'host', text: host },
      { component: 'controller', text: controller },
    ]),
  ).toBe(`# HELP process_cpu_seconds_total CPU
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total{component="host"} 1.5
process_cpu_seconds_total{component="controller"} 0.5
# HELP atoll_invocations_total Invocations
# TYPE atoll_invocations_total counter
atoll_invocations_total{namespace="default",function="a"} 3
# TYPE gc_seconds histogram
gc_seconds_bucket{component="controller",le="+Inf"} 2
gc_seconds_sum{component="controller"} 1
`);
});
