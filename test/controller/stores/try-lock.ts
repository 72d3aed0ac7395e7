/** Tries to take the lock "x" of a folder once, and says how that went. */
import { LockedError, takeLock } from '../../../controller/stores/lock.ts';

const [folder = ''] = process.argv.slice(2);
try {
  await takeLock(folder, 'x', { waitMs: 0 });
  console.log('taken');
} catch (error) {
  if (!(error instanceof LockedError)) throw error;
  console.log(error.message);
}
