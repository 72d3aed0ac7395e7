/** The smallest handler: what is measured is everything around it. */
export const handler = async (event: unknown) => event;
