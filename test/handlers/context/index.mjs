export const handler = async (event, context) => ({
  event,
  context,
  remaining: context.getRemainingTimeInMillis(),
  trigger: context.trigger,
  aborted: context.signal.aborted,
  callbacks: ['done', 'fail', 'succeed'].filter((name) => name in context),
});
