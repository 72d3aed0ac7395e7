export const handler = async () => {
  // An add-on that reads through a null pointer as it is loaded; where no compiler is, the signal alone.
  if (process.env.ADDON) process.dlopen({ exports: {} }, process.env.ADDON);
  else process.kill(process.pid, 'SIGSEGV');
  await new Promise(() => {});
};
