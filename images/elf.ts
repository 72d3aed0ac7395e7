/** Which shared libraries a program needs: read from its bytes, so that another architecture's can be asked too. */
import { existsSync, realpathSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';

export interface Linked {
  /** The loader that starts it, as an absolute path; a library has none. */
  readonly interpreter: string | undefined;
  /** Names as they are looked up: `libc.so.6`. */
  readonly needed: readonly string[];
}

export interface Library {
  /** Where the loader looks for it: absolute, in the root of the image. */
  readonly path: string;
  /** The file on this machine. */
  readonly source: string;
}

/** Debian's folders, in the order in which its loader looks. */
const triplets = { x64: 'x86_64-linux-gnu', arm64: 'aarch64-linux-gnu' } as const;
const machines = { x64: 62, arm64: 183 } as const;
export type Arch = keyof typeof triplets;

/** The loader and every library that the program needs, found below `sysroot`, sorted by path. */
export async function librariesOf(program: string, arch: Arch, sysroot = '/'): Promise<Library[]> {
  const folders = ['/lib', '/usr/lib'].flatMap((lib) => [`${lib}/${triplets[arch]}`, lib]);
  const found = new Map<string, Library>();
  const waiting = [program];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    const { interpreter, needed } = linkedBy(await readFile(file), arch, file);
    const wanted = [...(interpreter === undefined ? [] : [interpreter]), ...needed];
    for (const name of wanted) {
      if (found.has(basename(name))) continue;
      const candidates = name.startsWith('/') ? [name] : folders.map((folder) => `${folder}/${name}`);
      const path = candidates.find((candidate) => existsSync(join(sysroot, candidate)));
      if (path === undefined) {
        throw new Error(`${file} needs ${name}, which is not in ${candidates.join(' or ')} below ${sysroot}`);
      }
      const source = realpathSync(join(sysroot, path));
      found.set(basename(name), { path, source });
      waiting.push(source);
    }
  }
  return [...found.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

const programHeader = { load: 1, dynamic: 2, interpreter: 3 } as const;
const dynamicTag = { end: 0, needed: 1, stringTable: 5 } as const;

/** ELF-64, little endian (System V ABI, chapters 4 and 5). Throws for anything else, or another machine's. */
export function linkedBy(bytes: Buffer, arch: Arch, name: string): Linked {
  if (bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2 || bytes[5] !== 1) {
    throw new Error(`${name} is no 64-bit little-endian ELF file`);
  }
  if (bytes.readUInt16LE(18) !== machines[arch]) {
    throw new Error(`${name} is for ELF machine ${bytes.readUInt16LE(18)}, not for ${arch}`);
  }
  const size = bytes.readUInt16LE(54);
  const headers = Array.from({ length: bytes.readUInt16LE(56) }, (_, index) => {
    const at = Number(bytes.readBigUInt64LE(32)) + index * size;
    const field = (offset: number): number => Number(bytes.readBigUInt64LE(at + offset));
    return { type: bytes.readUInt32LE(at), offset: field(8), address: field(16), length: field(32) };
  });
  const text = (offset: number): string => bytes.toString('utf8', offset, bytes.indexOf(0, offset));
  const interpreter = headers.find(({ type }) => type === programHeader.interpreter);
  const dynamic = headers.find(({ type }) => type === programHeader.dynamic);
  const entries: { tag: number; value: number }[] = [];
  for (let at = dynamic?.offset ?? 0; dynamic && at < dynamic.offset + dynamic.length; at += 16) {
    const tag = Number(bytes.readBigUInt64LE(at));
    if (tag === dynamicTag.end) break;
    entries.push({ tag, value: Number(bytes.readBigUInt64LE(at + 8)) });
  }
  // Entries speak of addresses in memory; the file is mapped by its load segments.
  const address = entries.find(({ tag }) => tag === dynamicTag.stringTable)?.value ?? 0;
  const segment = headers.find(
    (one) => one.type === programHeader.load && address >= one.address && address < one.address + one.length,
  );
  const strings = segment ? address - segment.address + segment.offset : 0;
  return {
    interpreter: interpreter && text(interpreter.offset),
    needed: entries.filter(({ tag }) => tag === dynamicTag.needed).map(({ value }) => text(strings + value)),
  };
}
