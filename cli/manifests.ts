/** Function objects out of files: every mistake of every document is told before anything is done with one. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { FunctionManifest } from '../crds/function.ts';
import { manifestProblemText, parseManifests } from '../crds/manifest.ts';
import { usageError } from './failure.ts';

/** With defaults and namespace filled in. */
export interface Manifest extends FunctionManifest {
  readonly metadata: FunctionManifest['metadata'] & { namespace: string };
}

const manifestName = /\.(ya?ml|json)$/;

/**
 * `source`: a file, a folder (its *.yaml, *.yml and *.json), or `-` for stdin. Throws a usage Failure that
 * names every problem with file, line, document and path.
 */
export async function readManifests(source: string, namespace: string): Promise<Manifest[]> {
  const manifests: Manifest[] = [];
  const problems: string[] = [];
  const fileOf = new Map<string, string>();
  for (const { file, text } of await read(source)) {
    const parsed = parseManifests(text, file);
    if (!parsed.ok) {
      problems.push(...parsed.problems.map(manifestProblemText));
      continue;
    }
    for (const manifest of parsed.manifests) {
      const metadata = { ...manifest.metadata, namespace: manifest.metadata.namespace ?? namespace };
      const key = `${metadata.namespace}/${metadata.name}`;
      const first = fileOf.get(key);
      if (first !== undefined)
        problems.push(`${file}: metadata.name: Function ${key} is in ${first} already`);
      fileOf.set(key, file);
      manifests.push({ ...manifest, metadata });
    }
  }
  if (problems.length === 0) return manifests;
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  throw usageError(
    `${count}, so nothing was changed\n${problems.join('\n')}`,
    'See docs/reference/function.md.',
  );
}

async function read(source: string): Promise<{ file: string; text: string }[]> {
  if (source === '-') return [{ file: 'stdin', text: (await readStdin()).toString('utf8') }];
  const isFolder = await stat(source).then(
    (found) => found.isDirectory(),
    (error: NodeJS.ErrnoException) => {
      throw usageError(error.code === 'ENOENT' ? `there is no ${source}` : error.message);
    },
  );
  if (!isFolder) return [{ file: source, text: await readFile(source, 'utf8') }];
  const names = (await readdir(source)).filter((name) => manifestName.test(name)).sort();
  if (names.length === 0) throw usageError(`${source} has no .yaml, .yml or .json file`);
  const files = names.map((name) => join(source, name));
  return await Promise.all(files.map(async (file) => ({ file, text: await readFile(file, 'utf8') })));
}

export async function readStdin(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
