export const handler = async () => {
  console.log('said before the exit');
  process.exit(7);
};
