'use strict';
const ways = {
  callback: (event, context, callback) => setTimeout(() => callback(null, 'called back'), 5),
  error: (event, context, callback) => setTimeout(() => callback(new RangeError('no')), 5),
  text: (event, context, callback) => callback('just words'),
  twice: (event, context, callback) => {
    context.callbackWaitsForEmptyEventLoop = false;
    callback(null, 'first');
    callback(null, 'second');
  },
  succeed: (event, context) => setTimeout(() => context.succeed('succeeded'), 5),
  fail: (event, context) => setTimeout(() => context.fail(new TypeError('failed')), 5),
  done: (event, context) => setTimeout(() => context.done(null, 'done'), 5),
  throws: () => {
    throw new RangeError('at once');
  },
  promise: async () => 'promised',
  /** The answer is there at once; what goes on holds it back, or does not. */
  waits: ({ waits }, context, callback) => {
    context.callbackWaitsForEmptyEventLoop = waits;
    const answer = { ended: false };
    setTimeout(() => (answer.ended = true), 100);
    callback(null, answer);
  },
  calls: (event, context, callback) =>
    void require('atoll')
      .nats.publish('a')
      .then(() => callback(null, 'published')),
  never: ({ busyMs }) => void setTimeout(() => {}, busyMs),
  ignored: () => 'returned without a promise',
  pid: (event, context, callback) => callback(null, process.pid),
};

exports.handler = (event, context, callback) => ways[event.what](event, context, callback);
exports.two = (event, context) => ways[event.what](event, context);
