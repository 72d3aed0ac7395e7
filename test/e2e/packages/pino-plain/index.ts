import pino from 'pino';

const logger = pino({ level: 'trace', base: null });

export const handler = async () => {
  logger.trace('too fine');
  logger.child({ robot: 'r7' }).error({ err: new RangeError('too far') }, 'stuck');
};
