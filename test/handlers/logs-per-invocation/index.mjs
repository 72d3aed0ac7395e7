export const handler = async (event) => {
  for (let step = 0; step < 3; step++) {
    console.log(`${event.name} ${step}`);
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
  }
  const store = globalThis.awslambda.InvokeStore;
  return { name: event.name, requestId: store.getRequestId() };
};
