import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Real servers and real processes: two files at a time are what two cores can carry.
    pool: 'forks',
    maxWorkers: 2,
    // Only what never comes is waited for so long: a machine that is several times slower is no failure.
    testTimeout: 120_000,
    hookTimeout: 180_000,
    expect: { poll: { timeout: 60_000 } },
    reporters: ['default', './test/support/closing-line.ts'],
  },
});
