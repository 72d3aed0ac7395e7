class DoorError extends Error {
  name = 'DoorError';
}
export const handler = async (event) => {
  if (event.what === 'string') throw 'just words';
  if (event.what === 'null') throw null;
  if (event.what === 'object') throw { reason: 'plain' };
  if (event.what === 'hostile')
    throw new Proxy(new Error('x'), {
      get() {
        throw new Error('no');
      },
    });
  if (event.what === 'permanent') throw Object.assign(new Error('never again'), { retryable: false });
  if (event.what === 'late') await new Promise((resolve) => setTimeout(resolve, 20));
  throw new DoorError('the door is closed');
};
