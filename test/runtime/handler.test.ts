/** The types of 'atoll' against @types/aws-lambda. These fail when they are compiled: `tsc` is part of the gate. */
import type * as aws from 'aws-lambda';
import { expectTypeOf, test } from 'vitest';
import type {
  BatchEvent,
  BatchHandler,
  BatchResponse,
  Context,
  HttpEvent,
  HttpHandler,
  HttpResult,
  ScheduledEvent,
  ScheduleHandler,
} from '../../runtime/handler.ts';

/** The three are callbacks of Node.js 0.10; what a caller sends as client context has no fixed shape here. */
type AwsContext = Omit<aws.Context, 'done' | 'fail' | 'succeed' | 'clientContext'>;
/** `aws.Handler` without the callback, which Lambda has no more since Node.js 24. */
type AwsHandler<Event, Answer> = (event: Event, context: AwsContext) => Promise<Answer>;

test('events are what @types/aws-lambda says of them', () => {
  expectTypeOf<HttpEvent>().toExtend<aws.APIGatewayProxyEventV2>();
  expectTypeOf<BatchEvent>().toExtend<aws.SQSEvent>();
  expectTypeOf<ScheduledEvent>().toExtend<aws.ScheduledEvent>();
  expectTypeOf<aws.ScheduledEvent>().toExtend<ScheduledEvent>();
});

test('answers of the types of @types/aws-lambda are taken', () => {
  expectTypeOf<aws.APIGatewayProxyStructuredResultV2>().toExtend<HttpResult>();
  expectTypeOf<aws.SQSBatchResponse>().toExtend<BatchResponse>();
  expectTypeOf<BatchResponse>().toExtend<aws.SQSBatchResponse>();
});

test('the context has what @types/aws-lambda says, except for what is older than promises', () => {
  expectTypeOf<Context>().toExtend<AwsContext>();
  expectTypeOf<'done' | 'fail' | 'succeed'>().not.toExtend<keyof Context>();
});

test('async handlers with the types of @types/aws-lambda are handlers here', () => {
  expectTypeOf<AwsHandler<aws.APIGatewayProxyEventV2, aws.APIGatewayProxyResultV2>>().toExtend<HttpHandler>();
  expectTypeOf<AwsHandler<aws.SQSEvent, aws.SQSBatchResponse>>().toExtend<BatchHandler>();
  expectTypeOf<AwsHandler<aws.SQSEvent, void>>().toExtend<BatchHandler>();
  expectTypeOf<AwsHandler<aws.ScheduledEvent, void>>().toExtend<ScheduleHandler>();
});
