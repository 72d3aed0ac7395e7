export const handler = async (event) => {
  if (event?.not) return 'did not spin';
  console.log('about to spin');
  for (;;);
};
