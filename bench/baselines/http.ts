/** A bare node:http server, the handler inline. Argument: a socket's path, or none for a free port. */
import { createServer } from 'node:http';
import { handler } from '../handlers/echo/index.ts';

const [path] = process.argv.slice(2);
const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    void handler(JSON.parse(Buffer.concat(chunks).toString())).then((result) => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify(result));
    });
  });
});
server.listen(path === undefined ? { host: '127.0.0.1', port: 0 } : { path }, () => {
  const address = server.address();
  console.log(JSON.stringify({ port: typeof address === 'object' ? address?.port : undefined }));
});
