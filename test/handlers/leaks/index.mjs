const kept = [];
export const handler = async ({ kind, kibibytes }) => {
  if (kind === 'buffers') kept.push(Buffer.alloc(kibibytes * 1024, 1));
  else kept.push(Array.from({ length: kibibytes * 16 }, (_, index) => ({ index, text: `object ${index}` })));
  return { pid: process.pid };
};
