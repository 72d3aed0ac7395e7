export const handler = async () => {
  setInterval(() => {}, 1);
  setTimeout(() => console.log('said after the return'), 5);
  return { pid: process.pid };
};
