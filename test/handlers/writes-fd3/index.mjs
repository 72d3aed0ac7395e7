import { writeSync } from 'node:fs';
export const handler = async () => {
  writeSync(3, 'this is no frame at all, just text');
  await new Promise(() => {});
};
