export const handler = async (event) => {
  if (event.spin) for (;;);
  if (event.exit) {
    await new Promise((resolve) => setTimeout(resolve, event.exit));
    process.exit(3);
  }
  await new Promise((resolve) => setTimeout(resolve, event.wait ?? 0));
  return { pid: process.pid };
};
