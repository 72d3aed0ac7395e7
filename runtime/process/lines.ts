/** Lines out of a pipe that may carry anything: one endless line, binary garbage, no newline at the end. */
import type { Readable } from 'node:stream';

/** A longer line is cut here and marked; the rest of it is dropped up to its newline. */
export const maxLineBytes = 64 * 1024;

/**
 * Calls `onLine` for each line without its newline, decoded as UTF-8 with replacement characters.
 * Holds at most `limitBytes`. The last line needs no newline. Never throws for what the pipe carries.
 */
export function readLines(stream: Readable, onLine: (line: string) => void, limitBytes = maxLineBytes): void {
  let held: Buffer[] = [];
  let heldBytes = 0;
  let dropped = 0;

  const take = (piece: Buffer) => {
    if (piece.length === 0) return;
    const room = limitBytes - heldBytes;
    if (piece.length <= room) {
      held.push(piece);
      heldBytes += piece.length;
      return;
    }
    if (room > 0) {
      // A copy, so that a small head does not keep a large chunk alive.
      held.push(Buffer.from(piece.subarray(0, room)));
      heldBytes = limitBytes;
    }
    dropped += piece.length - room;
  };
  const emit = () => {
    const bytes = held.length === 1 ? held[0]! : Buffer.concat(held, heldBytes);
    let text = bytes.toString('utf8');
    if (text.endsWith('\r')) text = text.slice(0, -1);
    if (dropped > 0) text += ` [${dropped} more bytes cut]`;
    held = [];
    heldBytes = 0;
    dropped = 0;
    onLine(text);
  };

  stream.on('data', (chunk: Buffer) => {
    let from = 0;
    for (let newline = chunk.indexOf(10); newline !== -1; newline = chunk.indexOf(10, from)) {
      take(chunk.subarray(from, newline));
      emit();
      from = newline + 1;
    }
    take(chunk.subarray(from));
  });
  stream.on('end', () => {
    if (heldBytes > 0) emit();
  });
  // A pipe that breaks is the process ending; its exit tells the story.
  stream.on('error', () => {});
}
