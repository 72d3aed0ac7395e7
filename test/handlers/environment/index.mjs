const atImport = { ...process.env };
const hour = new Date(0).getHours();
export const handler = async (event) => {
  if (event.set) process.env.CHANGED = event.set;
  return { atImport, now: { ...process.env }, cwd: process.cwd(), hour };
};
