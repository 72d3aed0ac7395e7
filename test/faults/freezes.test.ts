import { freezes } from './faults.ts';
import { testFault } from './fire.ts';

for (const fault of freezes) testFault(fault);
