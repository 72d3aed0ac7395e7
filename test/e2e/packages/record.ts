/** What a handler saw, in a file that the test reads: one short write each, so lines stay whole. */
import { appendFileSync } from 'node:fs';

export const record = (entry: Record<string, unknown>): void =>
  appendFileSync(process.env['JOURNAL'] as string, `${JSON.stringify(entry)}\n`);
