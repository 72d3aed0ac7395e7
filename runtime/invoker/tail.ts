/** The last 4 KB of an invocation's log as text, as `X-Amz-Log-Type: Tail` gives it. */
import type { InvocationReport } from '../event.ts';

export const maxTailBytes = 4 * 1024;

export class Tail {
  readonly #requestId: string;
  #text: string;

  constructor(requestId: string, version: string) {
    this.#requestId = requestId;
    this.#text = `START RequestId: ${requestId} Version: ${version}\n`;
  }

  line(timeMs: number, level: string, message: string): void {
    this.#add(`${new Date(timeMs).toISOString()}\t${this.#requestId}\t${level}\t${message}\n`);
  }

  raw(line: string): void {
    this.#add(`${line}\n`);
  }

  end(report: InvocationReport, memoryMiB: number): string {
    const { durationMs, initDurationMs, maxMemoryMiB } = report;
    const init = initDurationMs === undefined ? '' : `\tInit Duration: ${initDurationMs.toFixed(2)} ms`;
    this.#add(
      `END RequestId: ${this.#requestId}\n` +
        `REPORT RequestId: ${this.#requestId}\tDuration: ${durationMs.toFixed(2)} ms\t` +
        `Billed Duration: ${Math.ceil(durationMs)} ms\tMemory Size: ${memoryMiB} MB\t` +
        `Max Memory Used: ${maxMemoryMiB} MB${init}\n`,
    );
    const bytes = Buffer.from(this.#text);
    if (bytes.length <= maxTailBytes) return this.#text;
    let from = bytes.length - maxTailBytes;
    // Not in the middle of a character.
    while ((bytes[from]! & 0xc0) === 0x80) from++;
    return bytes.toString('utf8', from);
  }

  #add(text: string): void {
    this.#text += text;
    // Twice the limit in characters keeps the last 4 KB whole without cutting at each line.
    if (this.#text.length > 4 * maxTailBytes) this.#text = this.#text.slice(-maxTailBytes);
  }
}
