process.on('SIGTERM', () => {
  console.log('tidied up');
  process.exit(0);
});
export const handler = async () => 'ok';
