import { closeSync } from 'node:fs';
export const handler = async () => {
  closeSync(3);
  await new Promise(() => {});
};
