/** What handlers did, in a file that belongs to none of the parts under test: it outlives every one of them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../support/folder.ts';
import type { Closing } from '../support/closing.ts';

export interface Journal<Entry> {
  readonly path: string;
  /** For `spec.env`. */
  readonly env: { name: string; value: string };
  read(): Entry[];
}

export async function openJournal<Entry>(options: { closing?: Closing } = {}): Promise<Journal<Entry>> {
  const path = join(await temporaryFolder(options), 'journal.jsonl');
  return {
    path,
    env: { name: 'JOURNAL', value: path },
    read() {
      let text: string;
      try {
        text = readFileSync(path, 'utf8');
      } catch {
        return [];
      }
      return text
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Entry);
    },
  };
}

/** A module for handlers: `import { record } from './record.ts'`. One short write each, so lines stay whole. */
export const recordModule = {
  'record.ts': `
import { appendFileSync } from 'node:fs';
export const record = (entry: Record<string, unknown>): void =>
  appendFileSync(process.env['JOURNAL'] as string, JSON.stringify(entry) + '\\n');
`,
};
