import { describe } from 'vitest';
import { missingDisk } from '../support/disk.ts';
import { fullDisks } from './faults.ts';
import { testFault } from './fire.ts';

describe.skipIf(missingDisk())('disk', () => {
  for (const fault of fullDisks) testFault(fault);
});
