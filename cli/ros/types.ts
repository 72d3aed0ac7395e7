/** ROS interfaces as TypeScript: what `faas ros types` writes. */
import type { RosField, RosInterface, RosStructure } from './interfaces.ts';

export interface RosTypes {
  readonly text: string;
  readonly messages: number;
  readonly services: number;
  /** Messages that others are made of and whose package is not there: `unknown` in the text. */
  readonly missing: readonly string[];
}

/** Of what is listed, or with `packages` of those packages and all that they are made of. */
export function rosTypes(all: readonly RosInterface[], packages?: readonly string[]): RosTypes {
  const byName = new Map(all.map((one) => [fullName(one), one]));
  const chosen = packages === undefined ? [...all] : withUsed(all, byName, packages);
  const missing = new Set<string>();
  const typeOf = (field: RosField): string => {
    if (!field.isMessage) return field.isArray ? primitive(field.type).array : primitive(field.type).one;
    const known = byName.has(field.type);
    if (!known) missing.add(field.type);
    const one = known ? field.type.replaceAll('/', '.') : 'unknown';
    return field.isArray ? `${one}[]` : one;
  };
  const declaration = (name: string, { fields, constants }: RosStructure): string => {
    const lines = fields.map((field) => `      ${field.name}: ${typeOf(field)};`);
    return [
      ...constantsComment(constants),
      lines.length === 0
        ? `    export type ${name} = Record<string, never>;`
        : [`    export interface ${name} {`, ...lines, '    }'].join('\n'),
    ].join('\n');
  };

  const owners = Map.groupBy(chosen, ({ package: owner }) => owner);
  const namespaces = [...owners].map(([owner, interfaces]) => {
    const kinds = [...Map.groupBy(interfaces, ({ kind }) => kind)].map(([kind, ofKind]) => {
      const declared = ofKind.flatMap(({ name, parts }) =>
        parts.map((part, index) => declaration(kind === 'msg' ? name : `${name}_${partNames[index]}`, part)),
      );
      return [`  export namespace ${kind} {`, ...declared, '  }'].join('\n');
    });
    return [`export namespace ${owner} {`, ...kinds, '}'].join('\n');
  });
  const messages = chosen.filter(({ kind }) => kind === 'msg');
  const services = chosen.filter(({ kind }) => kind === 'srv');
  const augmentation = [
    `declare module 'atoll' {`,
    '  interface RosMessages {',
    ...messages.map((one) => `    '${fullName(one)}': ${dotted(one)};`),
    '  }',
    '  interface RosServices {',
    ...services.map(
      (one) =>
        `    '${fullName(one)}': { request: ${dotted(one)}_Request; response: ${dotted(one)}_Response };`,
    ),
    '  }',
    '}',
  ].join('\n');
  return {
    text: `${[header(owners), ...namespaces, augmentation].join('\n\n')}\n`,
    messages: messages.length,
    services: services.length,
    missing: [...missing].sort(),
  };
}

const partNames = ['Request', 'Response'] as const;

const fullName = ({ package: owner, kind, name }: RosInterface): string => `${owner}/${kind}/${name}`;
const dotted = ({ package: owner, kind, name }: RosInterface): string => `${owner}.${kind}.${name}`;

const header = (owners: ReadonlyMap<string, unknown>): string =>
  `// Written by "faas ros types" from ${owners.size} packages of ROS interfaces: write it anew rather than change it.
// 64-bit integers are bigint; arrays of numbers are typed arrays; a constant of an interface is told in its comment.`;

function constantsComment(constants: RosStructure['constants']): string[] {
  if (constants.length === 0) return [];
  // A constant may be any text, also one that would end the comment.
  const lines = constants.map(({ name, value }) => `     * ${name} = ${value.replaceAll('*/', '*\\/')}`);
  return ['    /**', ...lines, '     */'];
}

function withUsed(
  all: readonly RosInterface[],
  byName: ReadonlyMap<string, RosInterface>,
  packages: readonly string[],
): RosInterface[] {
  const chosen = new Set<RosInterface>();
  const choose = (one: RosInterface): void => {
    if (chosen.has(one)) return;
    chosen.add(one);
    for (const { type } of one.parts.flatMap(({ fields }) => fields)) {
      const used = byName.get(type);
      if (used !== undefined) choose(used);
    }
  };
  for (const one of all) if (packages.includes(one.package)) choose(one);
  // In the order of all, which is sorted.
  return all.filter((one) => chosen.has(one));
}

function primitive(type: string): { one: string; array: string } {
  switch (type) {
    case 'bool':
      return { one: 'boolean', array: 'boolean[]' };
    case 'string':
    case 'wstring':
      return { one: 'string', array: 'string[]' };
    case 'float32':
      return { one: 'number', array: 'Float32Array' };
    case 'float64':
      return { one: 'number', array: 'Float64Array' };
    case 'int8':
      return { one: 'number', array: 'Int8Array' };
    case 'uint8':
      return { one: 'number', array: 'Uint8Array' };
    case 'int16':
      return { one: 'number', array: 'Int16Array' };
    case 'uint16':
      return { one: 'number', array: 'Uint16Array' };
    case 'int32':
      return { one: 'number', array: 'Int32Array' };
    case 'uint32':
      return { one: 'number', array: 'Uint32Array' };
    case 'int64':
      return { one: 'bigint', array: 'BigInt64Array' };
    case 'uint64':
      return { one: 'bigint', array: 'BigUint64Array' };
    default:
      throw new Error(`"${type}" is no primitive type of ROS`);
  }
}
