import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { HttpResult } from 'atoll';
import { testContext, testHttpEvent } from 'atoll/testing';
import { handler } from './index.ts';

test('greets by the name in the query', async () => {
  const result = (await handler(testHttpEvent('GET', '/__name__?name=reef'), testContext())) as HttpResult;
  assert.equal(result.statusCode, 200);
  assert.deepEqual(JSON.parse(result.body ?? ''), { greeting: 'hello reef' });
});
