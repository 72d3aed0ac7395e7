import type { ScheduledEvent } from 'atoll';

/** Called by the clock with EventBridge's scheduled event. */
export const handler = async (event: ScheduledEvent) => {
  const lateMs = Date.now() - Date.parse(event.time);
  console.log('report', { tick: event.time, lateMs });
  return { tick: event.time, lateMs };
};
