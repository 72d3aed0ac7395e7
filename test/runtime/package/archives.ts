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
  pax?: { path?: string; size?: number; linkpath?: string };
  /** In the place of `path`, byte by byte: names that are not UTF-8. */
  rawPath?: Buffer;
}

const padded = (data: Buffer) => Buffer.concat([data, Buffer.alloc((512 - (data.length % 512)) % 512)]);

export function tarOf(...entries: MadeEntry[]): Buffer {
  const parts = entries.flatMap(({ data = '', pax, rawPath, ...header }) => {
    const body = Buffer.from(data);
    const block = Buffer.alloc(512);
    new Header({ type: 'File', mode: 0o644, size: body.length, mtime: new Date(0), ...header }).encode(block);
    if (rawPath) {
      block.fill(0, 0, 100);
      rawPath.copy(block);
      block.write(`${checksum(block).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    }
    return [...(pax ? [new Pax(pax).encode()] : []), block, padded(body)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

/** Of a header block: the sum of its bytes, its own field taken as spaces. */
export function checksum(block: Buffer): number {
  return block.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 32 : byte), 0);
}

export const packageOf = (...entries: MadeEntry[]): Buffer => gzipSync(tarOf(...entries));

export const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

export async function fileOf(folder: string, bytes: Uint8Array): Promise<string> {
  const file = join(folder, `${sha256Of(bytes)}.tgz`);
  await writeFile(file, bytes);
  return file;
}
