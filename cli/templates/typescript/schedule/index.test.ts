import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testContext, testScheduledEvent } from 'atoll/testing';
import { handler } from './index.ts';

test('tells the tick it was called for', async () => {
  const event = testScheduledEvent(new Date('2026-01-01T12:00:00Z'));
  assert.deepEqual(await handler(event, testContext()), { tick: '2026-01-01T12:00:00.000Z' });
});
