import { nothingOfThatName } from 'node:fs';
export const handler = async () => nothingOfThatName;
