import assert from 'node:assert/strict';
import { test } from 'node:test';
import { testContext, testHttpEvent } from 'atoll/testing';
import { handler } from './index.js';

test('greets by the name in the query', async () => {
  const result = await handler(testHttpEvent('GET', '/__name__?name=reef'), testContext());
  assert.equal(result.statusCode, 200);
  assert.deepEqual(JSON.parse(result.body), { greeting: 'hello reef' });
});
