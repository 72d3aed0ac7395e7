import middy from '@middy/core';
import httpErrorHandler from '@middy/http-error-handler';
import httpJsonBodyParser from '@middy/http-json-body-parser';
import validator from '@middy/validator';
import { transpileSchema } from '@middy/validator/transpile';
import type { APIGatewayProxyEventV2, APIGatewayProxyStructuredResultV2 } from 'aws-lambda';

type Event = Omit<APIGatewayProxyEventV2, 'body'> & { body: { robot: string; fail?: boolean } };

const eventSchema = transpileSchema({
  type: 'object',
  required: ['body'],
  properties: {
    body: { type: 'object', required: ['robot'], properties: { robot: { type: 'string', minLength: 2 } } },
  },
});

export const handler = middy<Event, APIGatewayProxyStructuredResultV2>()
  .use(httpErrorHandler())
  .use(httpJsonBodyParser())
  .use(validator({ eventSchema }))
  .handler(async ({ body }) => {
    if (body.fail === true) throw new Error('not for the caller');
    return { statusCode: 201, body: JSON.stringify({ hello: body.robot }) };
  });
