/** Kinds of other projects, as those define them: the API server of a test then judges objects of ours by that. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { tools } from '../../tools/install.ts';
import type { Kubernetes } from './kubernetes.ts';
import { requireTool } from './requirement.ts';

export type DefinitionName = keyof typeof tools.definitions.files;

interface Definition {
  readonly spec: {
    readonly group: string;
    readonly names: { readonly plural: string };
    readonly versions: readonly { readonly name: string; readonly served: boolean }[];
  };
}

const definitions = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';

/** Resolves when the API server serves all versions of them. */
export async function installDefinitions(
  kubernetes: Kubernetes,
  names: readonly DefinitionName[],
): Promise<void> {
  const program = await requireTool('definitions');
  for (const name of names) {
    const { stdout } = await promisify(execFile)(program, [name], { maxBuffer: 16 * 1024 * 1024 });
    const body = parse(stdout) as Definition;
    const { status, body: answer } = await kubernetes.request('POST', definitions, { body });
    if (status !== 201) throw new Error(`${name} was refused: ${JSON.stringify(answer)}`);
    const { group, names: called, versions } = body.spec;
    for (const version of versions.filter(({ served }) => served)) {
      await untilServed(kubernetes, `/apis/${group}/${version.name}/${called.plural}`);
    }
  }
}

/** At first the path is unknown, then for a moment busy (429). */
async function untilServed(kubernetes: Kubernetes, path: string): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const { status } = await kubernetes.request('GET', path);
    if (status === 200) return;
    if (Date.now() > deadline) throw new Error(`${path} was not served within 60 s: HTTP ${status}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
