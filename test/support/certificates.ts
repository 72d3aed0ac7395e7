/** An authority and what it signs, made by openssl for one test. */
import { execFile } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Closing } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import { requireTool } from './requirement.ts';

const run = promisify(execFile);

export interface Certificate {
  /** PEM files; the key's mode is 0600. */
  readonly certificate: string;
  readonly key: string;
}

export interface Authority {
  /** PEM file of its own certificate. */
  readonly ca: string;
  /** For a server at 127.0.0.1 and these addresses or names of hosts, or for a client of that name. */
  issue(name: string, addresses?: readonly string[]): Promise<Certificate>;
}

export async function makeAuthority(options: { closing?: Closing | undefined } = {}): Promise<Authority> {
  const openssl = await requireTool('openssl');
  const folder = await temporaryFolder(options);
  const file = (name: string): string => join(folder, name);
  const makeKey = async (name: string): Promise<string> => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    await writeFile(file(name), privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
    return file(name);
  };
  const ca = file('ca.crt');
  await run(openssl, [
    ...['req', '-x509', '-new', '-key', await makeKey('ca.key'), '-subj', '/CN=test-ca', '-days', '30'],
    ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign,digitalSignature', '-out', ca],
  ]);
  return {
    ca,
    async issue(name, addresses = []) {
      const made = { certificate: file(`${name}.crt`), key: await makeKey(`${name}.key`) };
      const alternatives = [
        'DNS:localhost',
        ...['127.0.0.1', ...addresses].map((one) => `${isIP(one) ? 'IP' : 'DNS'}:${one}`),
      ];
      await run(openssl, [
        ...['req', '-x509', '-new', '-key', made.key, '-subj', `/CN=${name}`, '-days', '30'],
        ...['-CA', ca, '-CAkey', file('ca.key'), '-out', made.certificate],
        ...['-addext', 'basicConstraints=critical,CA:FALSE'],
        ...['-addext', 'extendedKeyUsage=serverAuth,clientAuth'],
        ...['-addext', `subjectAltName=${alternatives.join(',')}`],
      ]);
      return made;
    },
  };
}
