import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testContext } from 'atoll/testing';
import { handler } from './index.js';

test('greets by name', async () => {
  assert.deepEqual(await handler({ name: 'reef' }, testContext()), { greeting: 'hello reef' });
});

test('greets the world when no name is given', async () => {
  assert.deepEqual(await handler({}, testContext()), { greeting: 'hello world' });
});
