const { PermanentError } = require('atoll');
module.exports['han' + 'dler'] = async () => ({
  permanent: new PermanentError('x').retryable === false,
  require: typeof require,
});
