console.log('started', Date.now());
export const handler = async (event) => {
  if (event.exit) process.exit(1);
  return { pid: process.pid };
};
