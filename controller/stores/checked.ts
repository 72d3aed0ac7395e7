/** Validation in front of every store. Apart from the contract, since the schema takes longer to load than most commands run. */
import { problemText, validate, type FunctionManifest } from '../../crds/function.ts';
import { InvalidObjectError } from './store.ts';

/** What is to be stored, defaults filled in; throws InvalidObjectError. */
export function checked(input: unknown): FunctionManifest {
  const verdict = validate(input);
  if (verdict.ok) return verdict.object;
  const called = (input as { metadata?: { name?: unknown } } | null)?.metadata?.name;
  throw new InvalidObjectError(
    typeof called === 'string' ? `Function "${called}"` : 'the Function',
    verdict.problems.map(problemText),
  );
}
