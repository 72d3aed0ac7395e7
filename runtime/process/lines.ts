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

/**
 * As `readLines`, for who sorts lines instead of reading them: `onLines` gets the bytes of as many whole lines as came
 * together, each with its newline. A line of more than `limitBytes` is cut at it; the rest of it is dropped.
 */
export function readWholeLines(
  stream: Readable,
  onLines: (lines: Buffer) => void,
  limitBytes = maxLineBytes,
): void {
  let held: Buffer[] = [];
  let heldBytes = 0;

  const hold = (piece: Buffer) => {
    const kept = piece.subarray(0, limitBytes - heldBytes);
    if (kept.length === 0) return;
    // A copy, so that a small piece does not keep a large chunk alive.
    held.push(Buffer.from(kept));
    heldBytes += kept.length;
  };
  const release = () => {
    onLines(Buffer.concat([...held, newline]));
    held = [];
    heldBytes = 0;
  };

  stream.on('data', (chunk: Buffer) => {
    let from = 0;
    if (heldBytes > 0) {
      const end = chunk.indexOf(10);
      hold(end === -1 ? chunk : chunk.subarray(0, end));
      if (end === -1) return;
      release();
      from = end + 1;
    }
    const last = chunk.lastIndexOf(10);
    if (last >= from) onLines(chunk.subarray(from, last + 1));
    if (last + 1 < chunk.length) hold(chunk.subarray(Math.max(from, last + 1)));
  });
  stream.on('end', () => {
    if (heldBytes > 0) release();
  });
  stream.on('error', () => {});
}

const newline = Buffer.from('\n');
