/** Messages in ROS 2's own encoding, by their schema. */
import rosmsg2 from '@foxglove/rosmsg2-serialization';
import { CdrWriter, readWhole } from '../ros/cdr.ts';
import type { Field, RosMessage, RosValue, Schema, TypedArray } from '../telemetry.ts';
import { definitionsOf } from './schema.ts';

type Reader = InstanceType<typeof rosmsg2.MessageReader>;

const readers = new WeakMap<Schema, Reader>();

export function decodeCdr(schema: Schema, data: Uint8Array): RosMessage {
  let reader = readers.get(schema);
  if (reader === undefined) {
    reader = new rosmsg2.MessageReader(definitionsOf(schema));
    readers.set(schema, reader);
  }
  return readWhole(reader, data) as RosMessage;
}

/** Missing fields are zero, false or empty, as in ROS. */
export function encodeCdr(schema: Schema, message: RosMessage): Uint8Array {
  const out = new CdrWriter();
  writeFields(out, schema.fields, message);
  return out.end();
}

function writeFields(out: CdrWriter, fields: readonly Field[], message: RosMessage | undefined): void {
  if (fields.length === 0) return out.nothing();
  for (const { name, type, array } of fields) {
    const value = message?.[name];
    if (array === undefined) writeOne(out, type, value);
    else {
      const items = (value ?? []) as ArrayLike<RosValue>;
      const count = array.length ?? items.length;
      if (array.length === undefined) out.number('uint32', count);
      if (ArrayBuffer.isView(items) && items.length === count) out.block(items as TypedArray);
      else for (let index = 0; index < count; index += 1) writeOne(out, type, items[index]);
    }
  }
}

function writeOne(out: CdrWriter, type: Field['type'], value: RosValue | undefined): void {
  if (typeof type !== 'string') return writeFields(out, type, value as RosMessage | undefined);
  switch (type) {
    case 'bool':
      return out.number('uint8', value === true ? 1 : 0);
    case 'string':
      return out.string((value ?? '') as string);
    case 'wstring':
      throw new TypeError('wstring has no form that all of ROS agrees on');
    case 'time':
    case 'duration': {
      const { sec = 0, nanosec = 0 } = (value ?? {}) as { sec?: number; nanosec?: number };
      out.number('int32', sec);
      return out.number('uint32', nanosec);
    }
    case 'int64':
    case 'uint64':
      return out.number(type, (value ?? 0n) as bigint);
    default:
      return out.number(type, (value ?? 0) as number);
  }
}
