import { IdempotencyConfig, makeIdempotent } from '@aws-lambda-powertools/idempotency';
import { CachePersistenceLayer } from '@aws-lambda-powertools/idempotency/cache';
import { connect } from '@nats-io/transport-node';
import type { Context } from 'aws-lambda';
import { record } from '../record.ts';
import { kvCache } from './kv-cache.ts';

const connection = await connect({ servers: process.env['NATS_URL'] as string });
const persistenceStore = new CachePersistenceLayer({ client: await kvCache(connection, 3600) });
const config = new IdempotencyConfig({ eventKeyJmesPath: 'order', expiresAfterSeconds: 3600 });

export const handler = makeIdempotent(
  async ({ order, fail = false }: { order: string; fail?: boolean }, context: Context) => {
    record({ order, fail });
    if (fail) throw new Error('no effect yet');
    return { order, by: context.awsRequestId };
  },
  { persistenceStore, config },
);
