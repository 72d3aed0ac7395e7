export const handler = (event, context) =>
  new Promise((resolve) => {
    if (event?.wait) setTimeout(() => resolve('waited'), event.wait);
    if (!event?.untilAborted) return;
    const { signal } = context;
    const aborted = () => resolve(signal.reason.message);
    if (signal.aborted) aborted();
    else signal.addEventListener('abort', aborted);
  });
