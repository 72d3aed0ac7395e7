export const handler = async () => {
  const kept = [];
  for (;;) kept.push({ a: kept.length, b: String(kept.length) });
};
