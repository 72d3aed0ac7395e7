/** From the text of a message definition to what the encodings need of it. */
import rosmsg from '@foxglove/rosmsg';
import type { Field, Primitive, Schema } from '../telemetry.ts';

type Parsed = ReturnType<typeof rosmsg.parse>;
type ParsedField = Parsed[number]['definitions'][number];

const primitives: ReadonlySet<string> = new Set<Primitive>([
  ...(['bool', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64'] as const),
  ...(['float32', 'float64', 'string', 'wstring', 'time', 'duration'] as const),
]);
/** Messages within messages; ROS's own go five deep. */
const maxDepth = 32;
/** With those of messages within messages, each time they occur; the largest types of ROS have some thousands. */
const maxFields = 65_536;

export function hashOf(text: string): string {
  return process.getBuiltinModule('node:crypto').hash('sha256', text).slice(0, 32);
}

export function parseSchema(type: string, text: string): Schema {
  const parsed = rosmsg.parse(text, { ros2: true });
  return { type, hash: hashOf(text), text, fields: fieldsOf(type, rootOf(parsed), parsed, 0, { fields: 0 }) };
}

/** What `@foxglove/rosmsg2-serialization` reads by. */
export function definitionsOf({ text }: Schema): Parsed {
  return rosmsg.parse(text, { ros2: true });
}

/** Constants alone are no root, but a type without fields is one. */
const rootOf = (parsed: Parsed): readonly ParsedField[] => parsed[0]?.definitions ?? [];

/** `taken` is counted up: a type that holds two of the next, and so on, doubles with each. */
function fieldsOf(
  type: string,
  definition: readonly ParsedField[],
  all: Parsed,
  depth: number,
  taken: { fields: number },
): Field[] {
  if (depth > maxDepth) throw new Error(`${type} holds messages in messages, more than ${maxDepth} deep`);
  taken.fields += definition.length;
  if (taken.fields > maxFields)
    throw new Error(`with ${type} it has more than the ${maxFields} fields allowed`);
  return definition
    .filter(({ isConstant }) => isConstant !== true)
    .map(({ name, type: of, isComplex, isArray, arrayLength, arrayUpperBound }) => ({
      name,
      type:
        isComplex === true
          ? fieldsOf(of, definitionOf(of, type, name, all), all, depth + 1, taken)
          : primitive(of, type, name),
      ...(isArray === true && {
        array: {
          ...(arrayLength !== undefined && { length: arrayLength }),
          ...(arrayUpperBound !== undefined && { most: arrayUpperBound }),
        },
      }),
    }));
}

function definitionOf(of: string, type: string, name: string, all: Parsed): readonly ParsedField[] {
  const found = all.find((one) => one.name === of);
  if (found === undefined) throw new Error(`${type}.${name} is a ${of}, whose definition is not in the text`);
  return found.definitions;
}

function primitive(of: string, type: string, name: string): Primitive {
  if (primitives.has(of)) return of as Primitive;
  throw new Error(`${type}.${name} is a ${of}, which is no type of ROS 2`);
}
