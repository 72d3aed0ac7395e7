import { writeSync } from 'node:fs';

/** A frame of version 1, type 11, with the fields of a call of kind 0. */
function call(id, number) {
  const target = Buffer.from('a.b');
  const frame = Buffer.alloc(10 + 4 + 1 + 4 + target.length + 4);
  frame[0] = 1;
  frame.writeUInt32LE(frame.length - 10, 1);
  frame[5] = 11;
  frame.writeUInt32LE(id, 6);
  frame.writeUInt32LE(number, 10);
  frame.writeUInt32LE(target.length, 15);
  target.copy(frame, 19);
  return frame;
}

/** Again while the socket is full: the reader is another process, and may be late. */
function write(frame) {
  for (;;) {
    try {
      return writeSync(3, frame);
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
    }
  }
}

export const handler = async ({ calls, id = 1 }) => {
  if (calls) for (let number = 0; number < calls; number++) write(call(id, number));
  if (!calls || id !== 1) writeSync(3, 'this is no frame at all, just text');
  await new Promise(() => {});
};
