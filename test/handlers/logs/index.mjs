export const handler = async (event) => {
  if (event.lines) for (const line of event.lines) console.log(line);
  if (event.big) console.log('x'.repeat(event.big));
  for (const line of event.stdout ?? []) process.stdout.write(line + '\n');
  for (const line of event.stderr ?? []) process.stderr.write(line + '\n');
  if (event.raw) process.stdout.write('r'.repeat(event.raw) + '\nafter\n');
  if (event.garbage) process.stderr.write(Buffer.from([0xff, 0xfe, 0x00, 0x0a, 0x68, 0x69, 0x0a]));
  if (event.error) console.error('it failed:', new RangeError('too far'));
  if (event.levels) for (const level of ['trace', 'debug', 'info', 'warn', 'error']) console[level](level);
  if (event.flood) for (let i = 0; i < event.flood; i++) console.log(`line ${i} ${'y'.repeat(100)}`);
  if (event.exit) process.exit(0);
  return 'logged';
};
