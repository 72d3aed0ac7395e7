const kept = [];
export const handler = async (event) => {
  for (let left = event.mebibytes; left > 0; left -= 16) {
    kept.push(Buffer.alloc(Math.min(left, 16) * 1024 * 1024, 1));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  if (event.hold) await new Promise((resolve) => setTimeout(resolve, event.hold));
  return { pid: process.pid };
};
