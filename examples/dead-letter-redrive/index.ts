/** Refuses parcels without a weight until the site allows them: those end as dead letters, and can be redriven. */
export const handler = async (event: { id: string; weight?: number }) => {
  if (event.weight === undefined && process.env['ACCEPT_UNWEIGHED'] !== 'yes') {
    throw new Error(`parcel ${event.id} has no weight`);
  }
  return { shipped: event.id };
};
