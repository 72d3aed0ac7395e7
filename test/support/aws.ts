import { startProcess } from './process.ts';
import { requireTool } from './requirement.ts';

/** Whom the command line talks to; an S3Server fits, and so does a gateway with a key. */
export interface AwsTarget {
  readonly endpoint: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface AwsAnswer {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export async function awsPath(): Promise<string> {
  return requireTool('awscli');
}

/** Runs AWS's own command line, as `aws(['s3', 'ls'], target)`; the user's configuration and credentials do not count. */
export async function aws(args: readonly string[], target: AwsTarget): Promise<AwsAnswer> {
  const command = await awsPath();
  const aws = await startProcess(command, ['--endpoint-url', target.endpoint, ...args], {
    name: 'aws',
    env: {
      PATH: process.env['PATH'],
      HOME: process.env['HOME'],
      AWS_ACCESS_KEY_ID: target.accessKeyId,
      AWS_SECRET_ACCESS_KEY: target.secretAccessKey,
      AWS_DEFAULT_REGION: target.region,
      AWS_CONFIG_FILE: '/dev/null',
      AWS_SHARED_CREDENTIALS_FILE: '/dev/null',
      // Asking a cloud's metadata service would hang where there is none.
      AWS_EC2_METADATA_DISABLED: 'true',
      AWS_PAGER: '',
    },
  });
  const { code } = await aws.exited;
  return { exitCode: code, stdout: aws.stdout(), stderr: aws.stderr() };
}
