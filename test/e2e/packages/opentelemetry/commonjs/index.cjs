exports.handler = async ({ robot }) => ({ hello: robot });
