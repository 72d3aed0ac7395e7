/** The keys file: who may come in where keys are asked. Format: docs/reference/doors.md. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { open } from 'node:fs/promises';
import { AtollError } from '../runtime/errors.ts';

/** Shorter secrets can be guessed by someone who may try for weeks. */
const minSecretLength = 16;
/** No dot: it ends the id in `Bearer id.secret`. No slash: it ends the id in a SigV4 credential. */
const idPattern = /^[A-Za-z0-9_-]{1,128}$/;

export class Keys {
  readonly #secrets: ReadonlyMap<string, string>;
  /** Takes the place of an unknown id's secret, so that unknown ids cost the same time as wrong secrets. */
  readonly #decoy = randomBytes(32).toString('base64url');

  constructor(secrets: ReadonlyMap<string, string> = new Map()) {
    this.#secrets = secrets;
  }

  /** Never undefined; with `known: false` nothing made from the secret may be accepted. */
  find(id: string): { readonly secret: string; readonly known: boolean } {
    const secret = this.#secrets.get(id);
    return { secret: secret ?? this.#decoy, known: secret !== undefined };
  }
}

/** Equal text, in a time that depends on neither. */
export function sameText(one: string, other: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(one), digest(other));
}

/** Rejects with AtollError KeysRefused: unreadable, open to others, malformed, or without a key. */
export async function readKeysFile(path: string): Promise<Keys> {
  let text: string;
  try {
    // One handle for look and read: the file that was looked at is the one that is read.
    const file = await open(path, 'r');
    try {
      const { mode, uid } = await file.stat();
      // A Secret in a pod is root's, and readable by the group that only the pod's own processes have.
      const others = uid === 0 && process.getuid?.() !== 0 ? 0o037 : 0o077;
      if ((mode & others) !== 0) {
        throw new AtollError(
          'KeysRefused',
          `${path} has mode ${(mode & 0o777).toString(8)}: others may read or write it; run "chmod 600 ${path}"`,
        );
      }
      text = await file.readFile('utf8');
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof AtollError) throw error;
    throw new AtollError('KeysRefused', `the keys file cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
  return parseKeys(text, path);
}

/** One JSON object { "id", "secret" } a line; empty lines and lines that begin with # are passed over. */
export function parseKeys(text: string, path: string): Keys {
  const secrets = new Map<string, string>();
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.trimStart().startsWith('#')) continue;
    // What the line holds is never repeated: messages end up in logs.
    const refuse = (problem: string): never => {
      throw new AtollError('KeysRefused', `${path}, line ${index + 1}: ${problem}`);
    };
    let entry: { id?: unknown; secret?: unknown } | null;
    try {
      entry = JSON.parse(line) as typeof entry;
    } catch {
      return refuse('not a JSON object {"id": "…", "secret": "…"}');
    }
    const { id, secret } = entry ?? {};
    if (typeof id !== 'string' || !idPattern.test(id)) {
      return refuse('"id" must be 1 to 128 letters, digits, "-" or "_"');
    }
    if (typeof secret !== 'string' || !/^[\x21-\x7e]+$/.test(secret) || secret.length < minSecretLength) {
      return refuse(`"secret" must be ${minSecretLength} or more printable ASCII characters without spaces`);
    }
    if (secrets.has(id)) return refuse('this id was given before');
    secrets.set(id, secret);
  }
  if (secrets.size === 0) throw new AtollError('KeysRefused', `${path} holds no key`);
  return new Keys(secrets);
}
