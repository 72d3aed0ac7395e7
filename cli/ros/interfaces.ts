/** The interfaces of the ROS that this environment has, from the text of their files: nothing of ROS is run. */
import { readdir, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { parse } from '@foxglove/rosmsg';

export interface RosField {
  readonly name: string;
  /** A primitive of ROS, or the full name of a message: `geometry_msgs/msg/Point`. */
  readonly type: string;
  readonly isMessage: boolean;
  readonly isArray: boolean;
}

export interface RosConstant {
  readonly name: string;
  /** As it is written in the file. */
  readonly value: string;
}

export interface RosStructure {
  readonly fields: readonly RosField[];
  readonly constants: readonly RosConstant[];
}

/** One file: a message has one part, a service its request and its response. */
export interface RosInterface {
  readonly package: string;
  readonly kind: 'msg' | 'srv';
  readonly name: string;
  readonly parts: readonly RosStructure[];
}

export interface InterfacesFound {
  readonly interfaces: readonly RosInterface[];
  /** Files that could not be read as interfaces, and why. */
  readonly problems: readonly { readonly file: string; readonly problem: string }[];
}

/**
 * All of `<prefix>/share/<package>/{msg,srv}/` for the prefixes of AMENT_PREFIX_PATH; the first prefix that has a
 * package is the one whose files count, as in ROS itself. Sorted by name.
 */
export async function findInterfaces(ament: string): Promise<InterfacesFound> {
  const interfaces: RosInterface[] = [];
  const problems: { file: string; problem: string }[] = [];
  const seen = new Set<string>();
  for (const prefix of ament.split(delimiter).filter((folder) => folder !== '')) {
    for (const name of await entries(join(prefix, 'share'))) {
      const kinds = await Promise.all(
        (['msg', 'srv'] as const).map(async (kind) => ({
          kind,
          files: (await entries(join(prefix, 'share', name, kind))).filter((file) =>
            file.endsWith(`.${kind}`),
          ),
        })),
      );
      if (kinds.every(({ files }) => files.length === 0) || seen.has(name)) continue;
      seen.add(name);
      for (const { kind, files } of kinds) {
        for (const base of files) {
          const file = join(prefix, 'share', name, kind, base);
          try {
            interfaces.push(parseInterface(name, kind, base.slice(0, -4), await readFile(file, 'utf8')));
          } catch (error) {
            problems.push({ file, problem: (error as Error).message });
          }
        }
      }
    }
  }
  const key = ({ package: owner, kind, name }: RosInterface): string => `${owner}/${kind}/${name}`;
  interfaces.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  return { interfaces, problems };
}

/** @throws Error that names the line which is no line of an interface */
export function parseInterface(owner: string, kind: 'msg' | 'srv', name: string, text: string): RosInterface {
  const parts = kind === 'msg' ? [text] : text.split(/^---[ \t]*(?:#.*)?\r?$/m);
  if (kind === 'srv' && parts.length !== 2) {
    throw new Error(
      `a service has one line "---" between request and response, this has ${parts.length - 1}`,
    );
  }
  return { package: owner, kind, name, parts: parts.map((part) => structure(owner, part)) };
}

/** A struct of IDL cannot be empty: rosidl, and the parser with it, give such a message this field. */
const placeholder = 'structure_needs_at_least_one_member';

function structure(owner: string, text: string): RosStructure {
  const [{ definitions } = { definitions: [] }] = parse(text, { ros2: true, skipTypeFixup: true });
  const fields: RosField[] = [];
  const constants: RosConstant[] = [];
  for (const {
    name,
    type,
    isArray = false,
    isComplex = false,
    isConstant = false,
    valueText,
  } of definitions) {
    if (isConstant) constants.push({ name, value: valueText ?? '' });
    else if (name !== placeholder) fields.push({ name, isArray, ...fullType(owner, type, isComplex) });
  }
  return { fields, constants };
}

function fullType(owner: string, type: string, isComplex: boolean): { type: string; isMessage: boolean } {
  // The parser's own words for two messages that its readers make something else of.
  if (type === 'time') return { type: 'builtin_interfaces/msg/Time', isMessage: true };
  if (type === 'duration') return { type: 'builtin_interfaces/msg/Duration', isMessage: true };
  if (!isComplex) return { type, isMessage: false };
  const words = type.split('/');
  const name = words.at(-1) ?? type;
  return { type: `${words.length === 1 ? owner : words[0]}/msg/${name}`, isMessage: true };
}

async function entries(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
    throw error;
  }
}
