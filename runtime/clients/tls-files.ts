/** The files of a TLS connection, as their settings name them. Read at each connect: a certificate is renewed in place. */
import { statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { TlsFiles } from '../config.ts';

/** Throws for a key that everyone may use: then it is nobody's. */
export function refuseOpenKey({ key }: TlsFiles): void {
  if (key !== undefined && (statSync(key).mode & 0o007) !== 0) {
    throw new Error(`${key} is a private key and everyone may use it: chmod 600`);
  }
}

/** Rejects with what is wrong with which file. */
export async function readTlsFiles(files: TlsFiles): Promise<{ ca?: Buffer; cert?: Buffer; key?: Buffer }> {
  refuseOpenKey(files);
  const { ca, certificate, key } = files;
  return {
    ...(ca !== undefined && { ca: await readFile(ca) }),
    ...(certificate !== undefined && { cert: await readFile(certificate) }),
    ...(key !== undefined && { key: await readFile(key) }),
  };
}
