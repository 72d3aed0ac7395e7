/** What all resources of one function share: their address, and that the function exists. */
import type { FunctionObject } from '../../crds/function.ts';
import { keyText, type Key } from '../../controller/stores/store.ts';
import { AtollError } from '../../runtime/errors.ts';
import { keyOf } from '../key.ts';

export const functionPath = '/atoll/v1/namespaces/:namespace/functions/:name';

export interface FunctionParams {
  namespace: string;
  name: string;
}

/** Rejects with AtollError InvalidRequest or FunctionNotFound. */
export async function functionOf(
  params: FunctionParams,
  functions: { get(key: Key): Promise<FunctionObject | undefined> },
): Promise<FunctionObject> {
  const key = keyOf(params);
  const object = await functions.get(key);
  if (!object) throw new AtollError('FunctionNotFound', `there is no function ${keyText(key)}`);
  return object;
}
