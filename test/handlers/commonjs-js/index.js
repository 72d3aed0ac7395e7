exports.handler = async () => ({ commonjs: typeof module });
