// The same echo in each peer's own form.
exports.functionsFramework = (request, response) => response.json(request.body);
exports.handle = async (_context, body) => body;
exports.serverlessOffline = async (event) => ({ statusCode: 200, body: event.body });
