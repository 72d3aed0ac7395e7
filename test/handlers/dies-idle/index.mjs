setTimeout(() => process.exit(9), 5);
export const handler = async () => 'ok';
