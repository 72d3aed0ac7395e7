/** spec.env on one machine: plain values, or the file of the site folder that a secret lies in. */
import { realpath, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, sep } from 'node:path';
import type { EnvVarSpec } from '../../crds/function.ts';
import type { FunctionConfig } from '../../runtime/config.ts';
import type { Code } from '../../runtime/errors.ts';
import { isMissing } from '../stores/atomic-file.ts';
import type { SitePaths } from '../stores/site.ts';
import type { Workload } from './backend.ts';

export interface Problem {
  readonly reason: Code;
  readonly message: string;
}

type Entry = FunctionConfig['env'][number];

/**
 * The host reads the files itself, so no secret passes through here. A Secret and a ConfigMap are the same
 * here: the folder `secrets/<namespace>/<name>`, a file for each key.
 */
export async function environmentOf(
  { key, uid, spec }: Workload,
  paths: SitePaths,
): Promise<{ env: FunctionConfig['env'] } | { problem: Problem }> {
  const env: Entry[] = [];
  for (const variable of spec.env) {
    const found = await entryOf(variable, { ...key, uid }, paths);
    if (found === undefined) continue;
    if ('reason' in found) return { problem: found };
    env.push(found);
  }
  return { env };
}

/** Undefined: an optional one that is not there. */
async function entryOf(
  { name, value, valueFrom }: EnvVarSpec,
  owner: { namespace: string; name: string; uid: string },
  paths: SitePaths,
): Promise<Entry | Problem | undefined> {
  const ref = valueFrom?.secretKeyRef ?? valueFrom?.configMapKeyRef;
  if (ref) {
    const file = await fileOf(owner.namespace, ref, paths, ref === valueFrom?.secretKeyRef);
    if ('stamp' in file) return { name, ...file };
    if (ref.optional && file.reason === 'SecretNotFound') return undefined;
    return { ...file, message: `env ${name}: ${file.message}` };
  }
  const fieldPath = valueFrom?.fieldRef?.fieldPath;
  if (fieldPath === undefined) return { name, value: value ?? '' };
  const field = fields[fieldPath];
  if (field) return { name, value: field(owner) };
  return {
    reason: 'InvalidObject',
    message: `env ${name}: fieldPath "${fieldPath}" is not known outside a cluster; known are ${Object.keys(fields).join(', ')}`,
  };
}

/** What of a pod's fields has a meaning on one machine. */
const fields: Record<string, (owner: { namespace: string; name: string; uid: string }) => string> = {
  'metadata.name': ({ name }) => name,
  'metadata.namespace': ({ namespace }) => namespace,
  'metadata.uid': ({ uid }) => uid,
  'spec.nodeName': () => hostname(),
  'status.hostIP': () => '127.0.0.1',
  'status.podIP': () => '127.0.0.1',
};

async function fileOf(
  namespace: string,
  { name, key }: { name: string; key: string },
  paths: SitePaths,
  secret: boolean,
): Promise<{ file: string; stamp: string } | Problem> {
  const file = paths.secretFile(namespace, name, key);
  const refused = (what: string): Problem => ({ reason: 'NotAllowed', message: what });
  const odd = [name, key].find(
    (segment) => !/^[A-Za-z0-9._-]{1,253}$/.test(segment) || /^\.+$/.test(segment),
  );
  if (odd !== undefined) return refused(`"${odd}" is not a name of a secret or of a key in it`);
  try {
    const real = await realpath(file);
    const root = await realpath(join(paths.secrets, namespace));
    if (!real.startsWith(root + sep))
      return refused(`${file} leads out of ${root}: put the file itself there`);
    const found = await stat(real);
    if (found.isFile() && found.size === 0 && secret) {
      // A power cut, or a command that failed in the middle of `> file`: no secret is nothing.
      return { reason: 'SecretNotFound', message: `${file} is empty: write the value into that file` };
    }
    if (found.isFile()) return { file, stamp: `${found.ino} ${found.mtimeMs} ${found.size}` };
    return refused(`${file} is not a file`);
  } catch (error) {
    if (!isMissing(error)) return refused(`${file} cannot be read: ${(error as Error).message}`);
    return {
      reason: 'SecretNotFound',
      message: `${file} is missing: write the value into that file (mode 0600)`,
    };
  }
}

/** Does it name files, whose content may change while the object stays as it is? */
export const readsFiles = ({ spec }: Pick<Workload, 'spec'>): boolean =>
  spec.env.some(({ valueFrom }) => valueFrom?.secretKeyRef ?? valueFrom?.configMapKeyRef);
