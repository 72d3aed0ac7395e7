process.on('SIGTERM', () => {});
export const handler = async () => ({ pid: process.pid });
