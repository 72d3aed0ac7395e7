import pino from 'pino';
import { lambdaRequestTracker, pinoLambdaDestination } from 'pino-lambda';
import type { APIGatewayProxyEventV2, Context } from 'aws-lambda';

const logger = pino(pinoLambdaDestination());
const withRequest = lambdaRequestTracker();

export const handler = async (event: APIGatewayProxyEventV2, context: Context) => {
  withRequest(event, context);
  logger.info({ robot: 'r7' }, 'first');
  await new Promise((resolve) => setImmediate(resolve));
  logger.warn('second');
  return { requestId: context.awsRequestId };
};
