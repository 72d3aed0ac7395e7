import {
  APIGatewayProxyEventV2Schema,
  EventBridgeSchema,
  SqsSchema,
} from '@aws-lambda-powertools/parser/schemas';
import { record } from '../record.ts';

/** As strict as the library's schemas go: what one of them does not know stays away from its answer. */
export const handler = async (event: Record<string, unknown>) => {
  if ('requestContext' in event) return APIGatewayProxyEventV2Schema.parse(event);
  if ('Records' in event) record({ sqs: SqsSchema.parse(event) });
  else record({ schedule: EventBridgeSchema.parse(event) });
  return undefined;
};
