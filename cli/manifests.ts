/** Function objects out of files: every mistake of every document is told before anything is done with one. */
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { FunctionManifest } from '../crds/function.ts';
import { manifestProblemText, maxManifestBytes, parseManifests } from '../crds/manifest.ts';
import { usageError } from './failure.ts';

/** With defaults and namespace filled in. */
export interface Manifest extends FunctionManifest {
  readonly metadata: FunctionManifest['metadata'] & { namespace: string };
}

/** More than anybody reads in one go. */
const maxShown = 200;

const manifestName = /\.(ya?ml|json)$/;

/**
 * `source`: a file, a folder (its *.yaml, *.yml and *.json), or `-` for stdin. Throws a usage Failure that
 * names every problem with file, line, document and path.
 */
export async function readManifests(source: string, namespace: string): Promise<Manifest[]> {
  const manifests: Manifest[] = [];
  const problems: string[] = [];
  const fileOf = new Map<string, string>();
  for (const { file, content } of await read(source)) {
    const parsed = parseManifests(content, file);
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
  const more = problems.length > maxShown ? `\n… and ${problems.length - maxShown} more` : '';
  throw usageError(
    `${count}, so nothing was changed\n${problems.slice(0, maxShown).join('\n')}${more}`,
    'See docs/reference/function.md.',
  );
}

async function read(source: string): Promise<{ file: string; content: Uint8Array }[]> {
  if (source === '-') return [{ file: 'stdin', content: await startOf(process.stdin) }];
  const isFolder = await stat(source).then(
    (found) => found.isDirectory(),
    (error: NodeJS.ErrnoException) => {
      throw usageError(error.code === 'ENOENT' ? `there is no ${source}` : error.message);
    },
  );
  if (!isFolder) return [{ file: source, content: await startOf(createReadStream(source)) }];
  const names = (await readdir(source)).filter((name) => manifestName.test(name)).sort();
  if (names.length === 0) throw usageError(`${source} has no .yaml, .yml or .json file`);
  const files = names.map((name) => join(source, name));
  return await Promise.all(
    files.map(async (file) => ({ file, content: await startOf(createReadStream(file)) })),
  );
}

/** No more of it than is needed to tell that it is too big. */
async function startOf(stream: Readable): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    if (bytes > maxManifestBytes) break;
  }
  return Buffer.concat(chunks);
}
