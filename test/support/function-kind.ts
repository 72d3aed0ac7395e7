import { readFile } from 'node:fs/promises';
import { parse } from 'yaml';
import { closeLater } from './closing.ts';
import type { Kubernetes } from './kubernetes.ts';

export const functionsPath = '/apis/atoll.dev/v1alpha1/functions';
const definitions = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';

/** The kind Function as it is installed in any cluster; resolves when the API server serves it. */
export async function installFunctionKind(kubernetes: Kubernetes): Promise<void> {
  const file = new URL('../../crds/function.yaml', import.meta.url);
  const body: unknown = parse(await readFile(file, 'utf8'));
  const { status, body: answer } = await kubernetes.request('POST', definitions, { body });
  if (status !== 201) throw new Error(`the definition was refused: ${JSON.stringify(answer)}`);
  await listFunctions(kubernetes);
}

/** Everything of the kind, in all namespaces. */
export async function deleteFunctions(kubernetes: Kubernetes): Promise<void> {
  for (const namespace of new Set(await listFunctions(kubernetes))) {
    const path = functionsPath.replace('functions', `namespaces/${namespace}/functions`);
    const { status } = await kubernetes.request('DELETE', path);
    if (status !== 200) throw new Error(`the Functions of ${namespace} were not deleted: HTTP ${status}`);
  }
}

/**
 * Stores a handler that the definition does not allow: its rule is taken away for the rest of the test, as if it were
 * newer than the object.
 */
export async function makeUnreadable(kubernetes: Kubernetes, path: string): Promise<void> {
  const definition = `${definitions}/functions.atoll.dev`;
  const at =
    '/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/handler/x-kubernetes-validations';
  const { body } = await kubernetes.request('GET', definition);
  const rules = at
    .slice(1)
    .split('/')
    .reduce<unknown>((node, step) => (node as Record<string, unknown>)[step], body);
  const patch = (op: object): Promise<unknown> =>
    kubernetes.request('PATCH', definition, { body: [op], contentType: 'application/json-patch+json' });
  await patch({ op: 'remove', path: at });
  closeLater(async () => void (await patch({ op: 'add', path: at, value: rules })));
  const deadline = Date.now() + 30_000;
  for (;;) {
    const { status } = await kubernetes.request('PATCH', path, {
      body: { spec: { handler: 'nothing' } },
      contentType: 'application/merge-patch+json',
    });
    if (status === 200) return;
    if (Date.now() > deadline)
      throw new Error(`a wrong handler was still refused 30 s later: HTTP ${status}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Their namespaces. After a change of the definition the path is unknown at first, then for a moment busy (429). */
async function listFunctions(kubernetes: Kubernetes): Promise<string[]> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const { status, body } = await kubernetes.request('GET', functionsPath);
    if (status === 200) {
      return (body as { items: { metadata: { namespace: string } }[] }).items.map(
        ({ metadata }) => metadata.namespace,
      );
    }
    if (Date.now() > deadline) throw new Error('the kind Function was not served within 30 s');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
