import type { Handler, ScheduledEvent } from 'atoll';

export const handler: Handler<ScheduledEvent, { tick: string }> = async (event) => {
  console.log('the clock called', { tick: event.time });
  return { tick: event.time };
};
