export const handler = async ({ robot }) => ({ hello: robot });
