/** Archives made by hand, as no honest tool makes them. */
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { Header, Pax } from 'tar';
import type { HeaderData } from 'tar';

export interface MadeEntry extends HeaderData {
  data?: string | Buffer;
  /** Attributes that a pax header in front of the entry claims. */
  pax?: { path?: string; size?: number };
}

const padded = (data: Buffer) => Buffer.concat([data, Buffer.alloc((512 - (data.length % 512)) % 512)]);

export function tarOf(...entries: MadeEntry[]): Buffer {
  const parts = entries.flatMap(({ data = '', pax, ...header }) => {
    const body = Buffer.from(data);
    const block = Buffer.alloc(512);
    new Header({ type: 'File', mode: 0o644, size: body.length, mtime: new Date(0), ...header }).encode(block);
    return [...(pax ? [new Pax(pax).encode()] : []), block, padded(body)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

export const packageOf = (...entries: MadeEntry[]): Buffer => gzipSync(tarOf(...entries));

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function fileOf(folder: string, bytes: Uint8Array): Promise<string> {
  const file = join(folder, `${sha256Of(bytes)}.tgz`);
  await writeFile(file, bytes);
  return file;
}
