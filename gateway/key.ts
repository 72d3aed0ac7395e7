/** A Function's key out of a URL: only what can be one gets as far as a store, which may make a file name of it. */
import { namePattern } from '../crds/function.ts';
import { isNamespace, type Key } from '../controller/stores/store.ts';
import { AtollError } from '../runtime/errors.ts';

const name = new RegExp(namePattern);

/** Throws AtollError InvalidRequest. */
export function keyOf(params: { namespace: string; name: string }): Key {
  if (!isNamespace(params.namespace)) throw invalid('namespace', params.namespace);
  if (!name.test(params.name)) throw invalid('function name', params.name);
  return { namespace: params.namespace, name: params.name };
}

function invalid(what: string, value: string): AtollError {
  return new AtollError(
    'InvalidRequest',
    `${JSON.stringify(value.slice(0, 100))} is not a ${what}: lower-case letters, digits and "-" are`,
  );
}
