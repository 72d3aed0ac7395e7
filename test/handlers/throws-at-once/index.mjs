export const handler = () => {
  throw new TypeError('not even a promise');
};
