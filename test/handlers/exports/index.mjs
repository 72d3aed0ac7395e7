export const number = 4;
export const api = {
  door: {
    open: async () => 'open',
    get self() {
      return api;
    },
  },
};
export const callback = (event, context, callback) => callback(null, 'old');
export default { handler: async () => 'default' };
