import { kills } from './faults.ts';
import { testFault } from './fire.ts';

for (const fault of kills) testFault(fault);
