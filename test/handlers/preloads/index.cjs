exports.handler = async () => globalThis.preloaded;
