export const handler = async (event) => {
  console.log('said before the exit');
  process.exit(event?.code ?? 7);
};
