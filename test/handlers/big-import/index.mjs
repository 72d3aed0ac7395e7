// With what Node itself needs: more than 64 MiB, less than a quarter more.
const rest = 80 * 1024 * 1024 - process.memoryUsage().heapTotal - 11 * 1024 * 1024;
export const kept = Buffer.alloc(rest, 1);
export const handler = async () => 'ok';
