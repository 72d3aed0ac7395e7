import type { Context } from 'atoll';

/** One robot's battery, as an IoT rule would hand it over; the topic is in the context. */
export const handler = async (event: { percentage: number }, context: Context) => {
  const robot = context.trigger.subject.split('/')[2];
  return { robot, low: event.percentage < 0.2 };
};
