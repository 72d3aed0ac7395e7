export const handler = (event) => {
  if (event?.later) {
    setTimeout(() => void Promise.reject(new Error('nobody looked')), 5);
    return Promise.resolve('returned before');
  }
  if (event?.exception)
    setTimeout(() => {
      throw new RangeError('out of the blue');
    }, 1);
  else void Promise.reject(new Error('nobody looked'));
  return new Promise(() => {});
};
