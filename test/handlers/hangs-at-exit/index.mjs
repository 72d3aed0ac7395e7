process.on('exit', () => {
  for (;;);
});
export const handler = () => {
  void Promise.reject(new Error('nobody looked'));
  return new Promise(() => {});
};
