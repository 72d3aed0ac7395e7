/**
 * What a package is: a gzipped tar of regular files, named by the SHA-256 of its bytes. No links, no special
 * files, no owners, no times; the only mode that counts is whether a file may be executed.
 */
import { createHash } from 'node:crypto';
import type { PackageSpec } from '../../crds/function.ts';
import { parseHandler } from '../../crds/values.ts';
import { AtollError } from '../errors.ts';

const MiB = 1024 ** 2;

/** Lambda's limit for a package with everything in it. */
export const maxUnpackedBytes = 250 * MiB;
/** What is packed is never much bigger than what is in it. */
export const maxPackedBytes = 250 * MiB;
export const maxEntries = 20_000;
/** Each entry may name hundreds of folders above it, so they have a limit of their own. */
export const maxFolders = 5_000;
export const maxPathBytes = 1024;
/** What Linux file systems take for one name. */
const maxNameBytes = 255;

/**
 * The digest a package goes by, known before it is fetched. That of inline code covers the name of its file too:
 * under another handler it is another package.
 */
export function packageSha256(spec: PackageSpec, handler: string): string {
  if (spec.inline === undefined) {
    if (spec.sha256 === undefined) throw new AtollError('PackageInvalid', 'spec.package has no sha256');
    return spec.sha256;
  }
  return createHash('sha256')
    .update(`${inlineFile(handler)}\0${spec.inline}`)
    .digest('hex');
}

/** The file that inline code becomes. Without a package.json Node sees for itself which kind of module it is. */
export function inlineFile(handler: string): string {
  return `${parseHandler(handler).file}.js`;
}

/** What is allowed and what to do: the end of every sentence that refuses a package. */
export const packageRule =
  'a package is a tar.gz of regular files under relative paths: build it again with "faas deploy"';

/**
 * The path of an entry as it is used: relative, with `/` between names, without `.` parts. '' is the package's own
 * folder. What could leave the folder, here or on another system, or be no file name at all, is refused.
 */
export function entryPath(path: string): string {
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  const problem =
    path === ''
      ? 'has no name'
      : path.startsWith('/') || /^[A-Za-z]:/.test(path)
        ? 'is an absolute path'
        : names.includes('..')
          ? 'leads out of the package'
          : /[\0-\x1f\x7f\\]/.test(path)
            ? 'has a control character or a backslash in its name'
            : path.includes('\ufffd')
              ? 'has a name that is not UTF-8'
              : names.some(looksLikeAStep)
                ? 'has a name that becomes ".." or a separator once its Unicode form is made plain'
                : Buffer.byteLength(path) > maxPathBytes
                  ? `has a path of more than ${maxPathBytes} bytes`
                  : names.some((name) => Buffer.byteLength(name) > maxNameBytes)
                    ? `has a name of more than ${maxNameBytes} bytes`
                    : undefined;
  if (problem !== undefined) throw invalidEntry(path, problem);
  return names.join('/');
}

/** Full-width dots and slashes and the like (Unicode Standard Annex 15, NFKC): whoever normalises gets out by them. */
function looksLikeAStep(name: string): boolean {
  const plain = name.normalize('NFKC');
  return plain !== name && (plain === '.' || plain === '..' || /[/\\]/.test(plain));
}

/** Equal for two paths that a file system without regard to case, or to how letters are composed, takes for one. */
export const foldedPath = (path: string): string => path.normalize('NFC').toLowerCase().normalize('NFC');

/** The problem of an entry whose path such a file system takes for that of another one. */
export const alsoCalled = (other: string): string =>
  `differs from ${JSON.stringify(other)} only in case or Unicode form, which some file systems take for one name`;

/** PackageInvalid, naming the entry. */
export function invalidEntry(path: string, problem: string): AtollError {
  const shown = path.length > 200 ? `${path.slice(0, 200)}…` : path;
  return new AtollError('PackageInvalid', `the entry ${JSON.stringify(shown)} ${problem}`);
}
