/** Layers into an OCI archive: what `ctr images import`, `podman load`, `skopeo copy oci-archive:` and `docker load` take. */
import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { runConfig } from './contents.ts';
import { type Arch } from './elf.ts';
import { layerOf, type Entry } from './layer.ts';

const mediaTypes = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  tar: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
} as const;
const architectures: Record<Arch, string> = { x64: 'amd64', arm64: 'arm64' };
/** OCI image configuration, `created`: fixed, or two builds of one content would differ. */
const created = '1970-01-01T00:00:00Z';
/** RFC 1952 section 2.3.1: the operating system, "unknown". zlib writes the one it was built for. */
const [gzipOsOffset, gzipOsUnknown] = [9, 255];

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

export interface Image {
  readonly arch: Arch;
  readonly layers: readonly { readonly what: string; readonly entries: readonly Entry[] }[];
}

export interface ArchiveOptions {
  /** `atoll:0.1.0`, by which the container runtime will know it. */
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Uncompressed layers are bigger, and made and unpacked faster. */
  readonly compress: boolean;
  /** What containers get when nobody says otherwise (OCI image configuration, `config`); ours by default. */
  readonly config?: object;
}

export interface Archive {
  readonly bytes: Buffer;
  /** Of the index that all platforms hang on: what `name@digest` names. */
  readonly digest: string;
  readonly layers: readonly { arch: Arch; what: string; bytes: number; packedBytes: number }[];
}

export async function archiveOf(images: readonly Image[], options: ArchiveOptions): Promise<Archive> {
  const blobs = new Map<string, Buffer>();
  const put = (data: Buffer, mediaType: string): Descriptor => {
    const hex = sha256(data);
    blobs.set(hex, data);
    return { mediaType, digest: `sha256:${hex}`, size: data.byteLength };
  };
  const putJson = (value: unknown, mediaType: string): Descriptor =>
    put(Buffer.from(JSON.stringify(value)), mediaType);

  const sizes: { arch: Arch; what: string; bytes: number; packedBytes: number }[] = [];
  const manifests: object[] = [];
  for (const { arch, layers } of images) {
    const descriptors: Descriptor[] = [];
    const diffIds: string[] = [];
    for (const { what, entries } of layers) {
      const tar = layerOf(entries);
      const packed = options.compress ? await gzipped(tar) : tar;
      descriptors.push(put(packed, options.compress ? mediaTypes.gzip : mediaTypes.tar));
      diffIds.push(`sha256:${sha256(tar)}`);
      sizes.push({ arch, what, bytes: tar.byteLength, packedBytes: packed.byteLength });
    }
    const config = putJson(
      {
        created,
        architecture: architectures[arch],
        os: 'linux',
        config: { ...(options.config ?? runConfig), Labels: options.labels },
        rootfs: { type: 'layers', diff_ids: diffIds },
        history: layers.map(({ what }) => ({ created, created_by: what })),
      },
      mediaTypes.config,
    );
    const manifest = { schemaVersion: 2, mediaType: mediaTypes.manifest, config, layers: descriptors };
    manifests.push({
      ...putJson({ ...manifest, annotations: options.labels }, mediaTypes.manifest),
      platform: { architecture: architectures[arch], os: 'linux' },
    });
  }
  const index = putJson(
    { schemaVersion: 2, mediaType: mediaTypes.index, manifests, annotations: options.labels },
    mediaTypes.index,
  );
  const annotations = {
    'io.containerd.image.name': fullName(options.name),
    'org.opencontainers.image.ref.name': options.name.slice(options.name.lastIndexOf(':') + 1),
  };
  const bytes = layerOf([
    { path: 'oci-layout', data: Buffer.from('{"imageLayoutVersion":"1.0.0"}') },
    {
      path: 'index.json',
      data: Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          mediaType: mediaTypes.index,
          manifests: [{ ...index, annotations }],
        }),
      ),
    },
    ...[...blobs].map(([hex, data]) => ({ path: `blobs/sha256/${hex}`, data })),
  ]);
  return { bytes, digest: index.digest, layers: sizes };
}

/** As kubelet asks for it: containerd takes a name as it stands, and a pod's "atoll:1" means docker.io/library/atoll:1. */
function fullName(name: string): string {
  const [first = '', ...rest] = name.split('/');
  if (rest.length === 0) return `docker.io/library/${name}`;
  return /[.:]|^localhost$/.test(first) ? name : `docker.io/${name}`;
}

async function gzipped(data: Buffer): Promise<Buffer> {
  const packed = await promisify(gzip)(data);
  packed[gzipOsOffset] = gzipOsUnknown;
  return packed;
}

const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');
