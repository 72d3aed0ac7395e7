/** Counts a label up by read and compare-and-set, as two CLIs at once would. Arguments: folder, rounds. */
import { openDirectoryStore } from '../../../controller/stores/directory.ts';

const [dir = '', rounds = '0'] = process.argv.slice(2);
const store = await openDirectoryStore({ dir });
for (let done = 0; done < Number(rounds);) {
  const object = await store.get({ namespace: 'default', name: 'hello' });
  if (!object) throw new Error('not there');
  const count = String(Number(object.metadata.labels?.['count']) + 1);
  const { status: _, ...rest } = object;
  try {
    await store.put({ ...rest, metadata: { ...object.metadata, labels: { count } } });
    done += 1;
  } catch (error) {
    if ((error as { code?: string }).code !== 'Conflict') throw error;
  }
}
