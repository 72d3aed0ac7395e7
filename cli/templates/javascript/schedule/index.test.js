import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fakeCalls, testContext, testScheduledEvent } from 'atoll/testing';
import { handler } from './index.js';

test('publishes and returns the tick it was called for', async () => {
  const calls = fakeCalls();
  const event = testScheduledEvent(new Date('2026-01-01T12:00:00Z'));
  assert.deepEqual(await handler(event, testContext()), { tick: '2026-01-01T12:00:00.000Z' });
  const [published] = calls.of('nats.publish', '__name__.ticks');
  assert.deepEqual(published?.json(), { tick: '2026-01-01T12:00:00.000Z' });
});
