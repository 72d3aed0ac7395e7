/** Query parameters, checked: what is not understood is refused, never guessed. */
import { AtollError } from '../../runtime/errors.ts';

export type Query = Record<string, string | string[] | undefined>;

/** Throws AtollError InvalidRequest for a parameter that is none of `known`, or is given twice. */
export function queryOf<K extends string>(query: unknown, known: readonly K[]): Partial<Record<K, string>> {
  for (const [name, value] of Object.entries(query as Query)) {
    if (!known.includes(name as K)) {
      throw new AtollError(
        'InvalidRequest',
        `unknown parameter "${name}"; known: ${known.join(', ') || 'none'}`,
      );
    }
    if (typeof value !== 'string')
      throw new AtollError('InvalidRequest', `parameter "${name}" is given twice`);
  }
  return query as Partial<Record<K, string>>;
}

export function flagOf(name: string, value: string | undefined): boolean {
  if (value === undefined || value === 'false') return false;
  if (value === 'true') return true;
  throw new AtollError('InvalidRequest', `${name} is "${value}"; allowed: true, false`);
}

export function integerOf(
  name: string,
  value: string | undefined,
  range: { minimum: number; maximum: number },
): number | undefined {
  if (value === undefined) return undefined;
  const number = /^\d{1,16}$/.test(value) ? Number(value) : NaN;
  if (!(number >= range.minimum && number <= range.maximum)) {
    throw new AtollError(
      'InvalidRequest',
      `${name} is "${value}"; allowed: ${range.minimum} to ${range.maximum}`,
    );
  }
  return number;
}
