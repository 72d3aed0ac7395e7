import { describe } from 'vitest';
import { missingNetwork } from '../support/network.ts';
import { cuts } from './faults.ts';
import { testFault } from './fire.ts';

describe.skipIf(missingNetwork())('network', () => {
  for (const fault of cuts) testFault(fault);
});
