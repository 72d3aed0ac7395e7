import { clockJumps } from './faults.ts';
import { testFault } from './fire.ts';

for (const fault of clockJumps) testFault(fault);
