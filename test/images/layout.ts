/** An image's archive as an OCI layout on the disk; every blob that is read is checked against its descriptor. */
import { createHash } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { extract } from 'tar';
import { expect } from 'vitest';

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

export interface Layout {
  /** The blob, which must be what its descriptor says it is. */
  blob(descriptor: Descriptor): Promise<Buffer>;
  pathOf(digest: string): string;
  /** Of its first platform. */
  manifest(): Promise<Manifest>;
}

/** As the archive has them. */
export interface Manifest {
  readonly index: { readonly manifests: readonly (Descriptor & { annotations: Record<string, string> })[] };
  readonly platforms: { readonly manifests: readonly (Descriptor & { platform: object })[] };
  readonly manifest: {
    readonly config: Descriptor;
    readonly layers: readonly Descriptor[];
    readonly annotations: Record<string, string>;
  };
  readonly config: {
    readonly architecture: string;
    readonly rootfs: object;
    readonly config: { readonly User: string; readonly Cmd: readonly string[]; readonly Labels: object };
  };
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function openLayout(archive: string, folder: string): Promise<Layout> {
  await mkdir(folder, { recursive: true });
  await extract({ file: archive, cwd: folder });
  const pathOf = (digest: string): string => join(folder, 'blobs/sha256', digest.slice('sha256:'.length));
  const blob = async ({ digest, size }: Descriptor): Promise<Buffer> => {
    const bytes = await readFile(pathOf(digest));
    expect(bytes.byteLength).toBe(size);
    expect(`sha256:${sha256(bytes)}`).toBe(digest);
    return bytes;
  };
  const json = async <T>(descriptor: Descriptor): Promise<T> =>
    JSON.parse((await blob(descriptor)).toString()) as T;
  return {
    blob,
    pathOf,
    async manifest() {
      const index = JSON.parse(await readFile(join(folder, 'index.json'), 'utf8')) as Manifest['index'];
      const platforms = await json<Manifest['platforms']>(index.manifests[0]!);
      const manifest = await json<Manifest['manifest']>(platforms.manifests[0]!);
      return { index, platforms, manifest, config: await json<Manifest['config']>(manifest.config) };
    },
  };
}
