import { expect, test } from 'vitest';
import { failureResponse, tellsFailure } from '../../../runtime/ros/failure.ts';
import type { MessageField } from '../../../runtime/ros/message.ts';

const fields = (text: string): MessageField[] =>
  text.split(', ').map((one) => {
    const [type = '', name = ''] = one.split(' ');
    return { type: type.replace('[]', ''), name, isArray: type.endsWith('[]') };
  });
const failure = { code: 'TypeError', message: 'no such map' };

test.each([
  ['bool success, string message', { success: false, message: 'TypeError: no such map' }],
  ['int32 status, string message', { status: 1, message: 'TypeError: no such map' }],
  ['string status, string error', { status: 'error', error: 'TypeError: no such map' }],
  ['bool ok, float64 value, string[] message', { ok: false }],
  ['bool enabled, string name', {}],
])('the response %s says a failure as %j', (response, expected) => {
  expect(failureResponse(fields(response), {}, failure)).toEqual(expected);
  expect(tellsFailure(fields(response), {})).toBe(Object.keys(expected).length > 0);
});

test('a template says which fields, and what is in them', () => {
  const response = fields('uint8 result, bool done, float32 rating, string why');
  const template = { result: '255', done: 'false', rating: '-1.5', why: '{code} ({message})' };
  expect(failureResponse(response, template, failure)).toEqual({
    result: 255n,
    done: false,
    rating: -1.5,
    why: 'TypeError (no such map)',
  });
});

test.each([
  [
    'a field that is not there',
    { reason: '{message}' },
    'has no field "reason" that could be filled; it has result',
  ],
  ['a word for a number', { result: 'failed' }, '"failed" is not a uint8'],
])('%s in a template is said', (_what, template, says) => {
  expect(() => failureResponse(fields('uint8 result'), template, failure)).toThrow(says);
});
