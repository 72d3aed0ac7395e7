export const handler = async (event) => {
  switch (event.what) {
    case 'bigint':
      return { n: 1n };
    case 'circular': {
      const a = {};
      a.a = a;
      return a;
    }
    case 'undefined':
      return undefined;
    case 'function':
      return () => 1;
    case 'big':
      return 'x'.repeat(20 * 1024 * 1024);
    case 'bytes':
      return Buffer.from([0, 1, 2, 255]);
    case 'umlauts':
      return { text: 'ä€😀'.repeat(10000) };
    case 'thenable':
      return {
        then: (resolve) => {
          resolve('then');
          resolve('again');
        },
      };
    case 'hostile':
      return {
        get then() {
          throw new Error('then threw');
        },
      };
    case 'toJSON':
      return {
        toJSON() {
          throw new Error('toJSON threw');
        },
      };
    case 'size':
      return { length: event.data.length };
  }
};
