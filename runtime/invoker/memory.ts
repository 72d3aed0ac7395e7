/** How much memory a handler process uses and may use. */
import { readFileSync } from 'node:fs';

const mebibyte = 1024 * 1024;

/**
 * Bytes that the process itself occupies: anonymous and shared memory, without the pages of the Node binary,
 * which all processes share and which alone would exceed a small function's limit. Undefined when it is gone.
 * Read from `status`, whose unit is kB on every kernel; `statm` counts pages, which are not 4 KiB everywhere.
 */
export function residentBytes(pid: number): number | undefined {
  let status: string;
  try {
    status = readFileSync(`/proc/${pid}/status`, 'latin1');
  } catch {
    return undefined;
  }
  let kilobytes = 0;
  for (const field of ['RssAnon:', 'RssShmem:']) {
    const at = status.indexOf(field);
    if (at === -1) return undefined;
    kilobytes += Number.parseInt(status.slice(at + field.length, at + field.length + 24), 10);
  }
  return kilobytes * 1024;
}

/**
 * Old objects may take all of spec.memory. The heap's own end must come after the whole process is over its limit:
 * then a heap that grows slowly is replaced between two invocations, as Buffers are, instead of dying with one
 * (docs/decisions). The young generation (three semi-spaces) stays small where memory is.
 */
export function heapFlags(memoryBytes: number): string[] {
  const mebibytes = memoryBytes / mebibyte;
  const semiSpace = 2 ** Math.max(0, Math.min(4, Math.floor(Math.log2(mebibytes / 16))));
  return [`--max-old-space-size=${Math.floor(mebibytes)}`, `--max-semi-space-size=${semiSpace}`];
}
