await new Promise((resolve) => setTimeout(resolve, 20_000));
export const handler = async () => 'late';
