import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { InvokeCommand, LambdaClient, type InvokeCommandOutput } from '@aws-sdk/client-lambda';
import { beforeAll, expect, test, vi } from 'vitest';
import { maxPayloadBytes } from '../../runtime/config.ts';
import { aws, type AwsTarget } from '../support/aws.ts';
import { closeLater } from '../support/closing.ts';
import { openJournal, recordModule, type Journal } from './journal.ts';
import { startSite, until, type FunctionSource, type Site } from './site.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 120_000 });

let site: Site;
let client: LambdaClient;
let target: AwsTarget;
let journal: Journal<{ n: number; id: string }>;

const source = (name: string): FunctionSource => ({
  name,
  spec: { env: [journal.env], timeoutSeconds: 5 },
  files: recordModule,
  code: `
    import { record } from './record.ts';
    export const handler = async (event, context) => {
      if (event.fail) throw new TypeError('on purpose');
      console.log('seen', event.n);
      record({ n: event.n, id: context.awsRequestId });
      return { n: event.n, arn: context.invokedFunctionArn, client: context.clientContext ?? null };
    };`,
});

beforeAll(async () => {
  journal = await openJournal();
  site = await startSite();
  await site.deploy(source('told'));
  // On loopback no key is asked for; AWS's clients insist on having one.
  target = { endpoint: site.info.url, region: 'us-east-1', accessKeyId: 'any', secretAccessKey: 'any' };
  client = new LambdaClient({
    endpoint: target.endpoint,
    region: target.region,
    credentials: { accessKeyId: target.accessKeyId, secretAccessKey: target.secretAccessKey },
    maxAttempts: 1,
  });
  closeLater(async () => client.destroy());
});

const payloadOf = ({ Payload }: InvokeCommandOutput): unknown =>
  JSON.parse(Buffer.from(Payload ?? []).toString());
const came = (n: number): { n: number; id: string } | undefined =>
  journal.read().find((entry) => entry.n === n);

test('the SDK gets a result, the log tail, the client context and the executed version', async () => {
  const answer = await client.send(
    new InvokeCommand({
      FunctionName: 'told',
      Payload: JSON.stringify({ n: 1 }),
      LogType: 'Tail',
      ClientContext: Buffer.from('{"custom":{"robot":"r7"}}').toString('base64'),
    }),
  );
  expect(answer).toMatchObject({ StatusCode: 200, ExecutedVersion: '$LATEST' });
  expect(answer.FunctionError).toBeUndefined();
  expect(payloadOf(answer)).toMatchObject({ n: 1, client: { custom: { robot: 'r7' } } });
  const log = Buffer.from(answer.LogResult ?? '', 'base64').toString();
  expect(log).toMatch(/START RequestId: .*\n.*seen 1\n.*END RequestId: .*\nREPORT RequestId: /);
  expect(came(1)?.id).toBe(answer.$metadata.requestId);
});

test.each([
  'arn:aws:lambda:us-east-1:000000000000:function:told',
  '000000000000:function:told',
  'told:$LATEST',
])('the SDK finds the function as %s', async (name) => {
  const answer = await client.send(new InvokeCommand({ FunctionName: name, Payload: '{"n":2}' }));
  expect(payloadOf(answer)).toMatchObject({ n: 2 });
});

test('the SDK is told of a function error with type, message and trace', async () => {
  const answer = await client.send(new InvokeCommand({ FunctionName: 'told', Payload: '{"fail":true}' }));
  expect(answer).toMatchObject({ StatusCode: 200, FunctionError: 'Unhandled' });
  expect(payloadOf(answer)).toMatchObject({ errorType: 'TypeError', errorMessage: 'on purpose' });
  expect((payloadOf(answer) as { trace: string[] }).trace.join('\n')).toMatch(/index\.ts:4:/);
});

test('an Event is answered 202 and handled; DryRun is answered 204 and runs nothing', async () => {
  const event = new InvokeCommand({ FunctionName: 'told', InvocationType: 'Event', Payload: '{"n":3}' });
  const queued = await client.send(event);
  expect(queued.StatusCode).toBe(202);
  const entry = await until('it is handled', () => came(3));
  expect(entry.id).toBe(queued.$metadata.requestId);
  const dry = new InvokeCommand({ FunctionName: 'told', InvocationType: 'DryRun', Payload: '{"n":4}' });
  expect((await client.send(dry)).StatusCode).toBe(204);
  await client.send(new InvokeCommand({ FunctionName: 'told', Payload: '{"n":5}' }));
  expect(came(4)).toBeUndefined();
});

test('an Event for a function that has no package yet is handled once it is deployed', async () => {
  const folder = await site.write(source('later'));
  await site.faas('apply', '-f', join(folder, 'function.yaml'));
  const sync = client.send(new InvokeCommand({ FunctionName: 'later', Payload: '{"n":6}' }));
  await expect(sync).rejects.toMatchObject({ $metadata: { httpStatusCode: 503 } });
  const event = new InvokeCommand({ FunctionName: 'later', InvocationType: 'Event', Payload: '{"n":7}' });
  expect((await client.send(event)).StatusCode).toBe(202);
  await site.faas('deploy', folder);
  await until('it is handled', () => came(7));
});

test('errors have the names and codes that the SDK knows', async () => {
  const unknown = client.send(new InvokeCommand({ FunctionName: 'nobody', Payload: '{}' }));
  await expect(unknown).rejects.toMatchObject({
    name: 'ResourceNotFoundException',
    $metadata: { httpStatusCode: 404 },
  });
  const garbled = client.send(new InvokeCommand({ FunctionName: 'told', Payload: '{"n":' }));
  await expect(garbled).rejects.toMatchObject({
    name: 'InvalidRequestContentException',
    $metadata: { httpStatusCode: 400 },
  });
  for (const InvocationType of ['RequestResponse', 'Event'] as const) {
    const Payload = JSON.stringify('x'.repeat(maxPayloadBytes));
    const big = client.send(new InvokeCommand({ FunctionName: 'told', InvocationType, Payload }));
    await expect(big).rejects.toMatchObject({
      name: 'RequestTooLargeException',
      $metadata: { httpStatusCode: 413 },
    });
  }
});

test('"aws lambda invoke" works unchanged: result, tail, function error, Event, unknown name', async () => {
  const file = join(site.work, 'answer.json');
  const invoke = (...args: string[]) =>
    aws(['lambda', 'invoke', '--cli-binary-format', 'raw-in-base64-out', ...args, file], target).then(
      async (answer) =>
        // Version 1 of the command line has no such option, and takes payloads as they are.
        /Unknown options/.test(answer.stderr) ? aws(['lambda', 'invoke', ...args, file], target) : answer,
    );
  const result = await invoke('--function-name', 'told', '--payload', '{"n":20}', '--log-type', 'Tail');
  expect(result.stderr).toBe('');
  expect(result.exitCode).toBe(0);
  const told = JSON.parse(result.stdout) as { StatusCode: number; LogResult: string };
  expect(told.StatusCode).toBe(200);
  expect(Buffer.from(told.LogResult, 'base64').toString()).toContain('seen 20');
  expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ n: 20 });

  const failed = await invoke('--function-name', 'told', '--payload', '{"fail":true}');
  expect(JSON.parse(failed.stdout)).toMatchObject({ StatusCode: 200, FunctionError: 'Unhandled' });
  expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ errorType: 'TypeError' });

  const event = ['--function-name', 'told', '--invocation-type', 'Event', '--payload', '{"n":21}'];
  expect(JSON.parse((await invoke(...event)).stdout)).toMatchObject({ StatusCode: 202 });
  await until('it is handled', () => came(21));

  const unknown = await invoke('--function-name', 'nobody');
  expect(unknown.exitCode).not.toBe(0);
  expect(unknown.stderr).toContain('ResourceNotFoundException');
});

test('"faas invoke --async" prints the request id under which the event is handled', async () => {
  const { stdout } = await site.faas('invoke', 'told', '--async', '-d', '{"n":30}');
  const entry = await until('it is handled', () => came(30));
  expect(stdout.trim()).toBe(entry.id);
});
