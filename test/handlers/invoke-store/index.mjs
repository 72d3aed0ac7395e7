// The package that spec.env names: two generations of it look for the store in the same place.
const { InvokeStore } = await import(process.env.STORE_PACKAGE);
const store = await InvokeStore.getInstanceAsync();

export const handler = async (event) => {
  store.set('user', event.name);
  const seen = [];
  for (let step = 0; step < 5; step++) {
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
    seen.push(
      [store.getRequestId(), store.getTenantId(), store.getXRayTraceId(), store.get('user')].join(' '),
    );
  }
  let refused;
  try {
    store.set(Symbol.for('_AWS_LAMBDA_REQUEST_ID'), 'forged');
  } catch (error) {
    refused = error.message;
  }
  return {
    seen: [...new Set(seen)],
    traceparent: store.getTraceparent?.(),
    isHost: store === globalThis.awslambda.InvokeStore,
    refused,
  };
};
