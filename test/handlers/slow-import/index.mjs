import { existsSync } from 'node:fs';

const { IMPORT_MS = '20000', HANG_IF = '' } = process.env;
await new Promise((resolve) => setTimeout(resolve, existsSync(HANG_IF) ? 60_000 : Number(IMPORT_MS)));

export const handler = async (event) => {
  if (event?.exit) process.exit(1);
  return 'late';
};
