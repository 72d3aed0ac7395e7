import { NotFoundError, Router } from '@aws-lambda-powertools/event-handler/http';
import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { Tracer } from '@aws-lambda-powertools/tracer';
import type { APIGatewayProxyEventV2, Context } from 'aws-lambda';

const logger = new Logger({ serviceName: 'fleet' });
const metrics = new Metrics({ namespace: 'fleet', serviceName: 'robots' });
const tracer = new Tracer({ serviceName: 'fleet' });
const app = new Router({ prefix: '/powertools' });

app.get('/robots/:id', async ({ params, req }) => {
  logger.info('asked for', { robot: params['id'] });
  metrics.addMetric('asked', MetricUnit.Count, 1);
  return { robot: params['id'], verbose: new URL(req.url).searchParams.get('verbose') };
});
app.post('/robots', async ({ req }) => ({ created: (await req.json()) as { robot: string } }));
app.get('/gone', async () => {
  throw new NotFoundError('no such robot');
});

export const handler = async (event: APIGatewayProxyEventV2, context: Context) => {
  logger.addContext(context);
  metrics.captureColdStartMetric(context.functionName);
  tracer.annotateColdStart();
  tracer.putAnnotation('path', event.rawPath);
  try {
    return await app.resolve(event, context);
  } finally {
    metrics.publishStoredMetrics();
  }
};
