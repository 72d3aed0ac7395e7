import { expect, test } from 'vitest';
import { functionNameOf } from '../../../gateway/lambda/function-name.ts';

const arn = 'arn:aws:lambda:us-east-1:000000000000:function:echo';

test.each([
  ['echo', undefined],
  ['echo', '$LATEST'],
  ['echo:$LATEST', undefined],
  ['echo:$LATEST', '$LATEST'],
  ['000000000000:function:echo', undefined],
  [arn, undefined],
  [`${arn}:$LATEST`, '$LATEST'],
  ['arn:aws:lambda:eu-central-1:000000000000:function:echo', undefined],
])('%s with qualifier %s is the function echo', (given, qualifier) => {
  expect(functionNameOf(given, qualifier)).toBe('echo');
});

test.each([
  ['echo', '1'],
  ['echo:prod', undefined],
  [`${arn}:7`, '7'],
  ['arn:aws:lambda:us-east-1:123456789012:function:echo', undefined],
  ['Echo_1', undefined],
])('%s with qualifier %s is not there', (given, qualifier) => {
  expect(() => functionNameOf(given, qualifier)).toThrow(
    expect.objectContaining({ type: 'ResourceNotFoundException' }) as Error,
  );
});

test.each([
  ['echo:$LATEST', '1'],
  ['../secret', undefined],
  ['arn:aws:s3:::bucket', undefined],
  ['arn:aws:lambda:us-east-1:echo', undefined],
  ['a'.repeat(65), undefined],
  ['', undefined],
])('%s with qualifier %s is not understood', (given, qualifier) => {
  expect(() => functionNameOf(given, qualifier)).toThrow(
    expect.objectContaining({ type: 'InvalidParameterValueException' }) as Error,
  );
});
