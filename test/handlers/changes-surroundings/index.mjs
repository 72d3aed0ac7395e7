export const handler = async () => {
  process.env.CHANGED = 'yes';
  process.chdir('/');
  Object.prototype.polluted = 'yes';
  globalThis.fetch = undefined;
  process.title = 'polluted';
  return 'changed';
};
