import { AsyncLocalStorage } from 'node:async_hooks';
import type { TestContext } from 'vitest';

/** Outside vitest (a benchmark, an example) there is no test. */
const vitest = process.env['VITEST'] === undefined ? undefined : await import('vitest');

const contexts = new AsyncLocalStorage<TestContext>();
vitest?.aroundEach((runTest, context) => contexts.run(context, runTest));

/** The test that the caller runs for: vitest itself cannot tell those apart that run at the same time. */
export const presentTest = (): TestContext | undefined => contexts.getStore();
