export const handler = async (event) => {
  if (event.spare) return 'spared';
  const kept = [];
  if (event.array) for (;;) kept.push(kept.length + 0.5);
  for (;;) kept.push({ a: kept.length, b: String(kept.length) });
};
