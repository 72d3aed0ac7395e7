globalThis.preloaded.push(`imported with ${process.env.SECRET}`);
