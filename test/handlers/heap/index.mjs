export const handler = async (event) => {
  if (event.spare) return 'spared';
  const kept = [];
  for (;;) kept.push({ a: kept.length, b: String(kept.length) });
};
