/** What a caller of a ROS service gets when there is no answer: ROS has no word for an error, so fields of the response say it. */
import type { MessageField } from './message.ts';

export interface Failure {
  readonly code: string;
  readonly message: string;
}

/** Names that say whether it went well, and where the words about it go. Other fields keep their defaults. */
const successNames = new Set(['success', 'ok', 'accepted', 'successful']);
const statusNames = new Set(['status', 'status_code', 'code', 'error_code', 'result_code']);
const messageNames = new Set([
  'message',
  'status_message',
  'error',
  'error_message',
  'error_msg',
  'error_string',
  'reason',
  'details',
]);
/** Of a status that is a number: most interfaces have 0 for success. */
const failedStatus = 1;

/**
 * The fields of the response for a failure. `template` (spec.triggers[].ros.failure) says them; without it they are found
 * by their names. A template that does not fit the response's fields is a TypeError.
 */
export function failureResponse(
  fields: readonly MessageField[],
  template: Readonly<Record<string, string>>,
  failure: Failure,
): Record<string, unknown> {
  if (Object.keys(template).length > 0) return filled(fields, template, failure);
  const text = `${failure.code}: ${failure.message}`;
  const response: Record<string, unknown> = {};
  for (const { name, type, isArray } of fields) {
    if (isArray === true) continue;
    if (type === 'bool' && successNames.has(name)) response[name] = false;
    else if (statusNames.has(name) && /int/.test(type)) response[name] = failedStatus;
    else if (statusNames.has(name) && type === 'string') response[name] = 'error';
    else if (messageNames.has(name) && type === 'string') response[name] = text;
  }
  return response;
}

/** False: the caller sees a response like any other. */
export function tellsFailure(
  fields: readonly MessageField[],
  template: Readonly<Record<string, string>>,
): boolean {
  return Object.keys(failureResponse(fields, template, { code: '', message: '' })).length > 0;
}

function filled(
  fields: readonly MessageField[],
  template: Readonly<Record<string, string>>,
  { code, message }: Failure,
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(template).map(([name, text]) => {
      const field = fields.find((one) => one.name === name);
      if (field === undefined || field.isArray === true || field.isComplex === true) {
        const possible = fields.filter(({ isArray, isComplex }) => isArray !== true && isComplex !== true);
        throw new TypeError(
          `failure: the response has no field "${name}" that could be filled; it has ${possible.map((one) => one.name).join(', ') || 'none'}`,
        );
      }
      return [name, valueOf(field, text, { code, message })];
    }),
  );
}

function valueOf({ name, type }: MessageField, text: string, { code, message }: Failure): unknown {
  if (type === 'string') return text.replaceAll('{code}', code).replaceAll('{message}', message);
  if (type === 'bool' && (text === 'true' || text === 'false')) return text === 'true';
  if (/^float/.test(type) && text.trim() !== '' && !Number.isNaN(Number(text))) return Number(text);
  if (/int/.test(type) && /^-?[0-9]+$/.test(text)) return BigInt(text);
  throw new TypeError(`failure: "${text}" is not a ${type}, as field "${name}" of the response is`);
}
