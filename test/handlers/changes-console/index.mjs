export const handler = async () => {
  console.log = undefined;
  process.exit = () => 'no';
  Promise.prototype.then = Promise.prototype.then;
  JSON.parse = () => {
    throw new Error('broken by the handler');
  };
  return 'changed';
};
