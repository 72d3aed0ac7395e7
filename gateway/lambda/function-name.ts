/** The forms in which Lambda takes a function's name: name, partial ARN, full ARN, each with or without a qualifier. */
import { namePattern } from '../../crds/function.ts';
import { LambdaError } from './errors.ts';

/** A site is one account. */
const account = '000000000000';
/** There is one version of a function: the one that runs. */
export const latest = '$LATEST';

const forms =
  /^(?:arn:aws[a-z-]*:lambda:[a-z0-9-]+:)?(?:(\d{12}):function:)?([A-Za-z0-9_-]{1,64})(?::(\$LATEST|[A-Za-z0-9_-]{1,128}))?$/;

/**
 * The Function's name. `given` is the path parameter, decoded; `qualifier` the query's. Throws LambdaError:
 * InvalidParameterValueException where it is none of the forms, ResourceNotFoundException for what a site does not have.
 */
export function functionNameOf(given: string, qualifier: string | undefined): string {
  const parts = forms.exec(given);
  if (!parts || (given.startsWith('arn:') && parts[1] === undefined)) {
    throw new LambdaError(
      'InvalidParameterValueException',
      `"${given.slice(0, 140)}" is not a function name, a partial ARN or an ARN`,
    );
  }
  const [, accountId, name = '', suffix] = parts;
  if (suffix !== undefined && qualifier !== undefined && suffix !== qualifier) {
    throw new LambdaError(
      'InvalidParameterValueException',
      'The derived qualifier from the function name does not match the specified qualifier.',
    );
  }
  const version = suffix ?? qualifier ?? latest;
  if ((accountId ?? account) !== account || version !== latest || !new RegExp(namePattern).test(name)) {
    throw notFound(name, version, accountId);
  }
  return name;
}

/** In Lambda's words. */
export function notFound(name: string, version = latest, accountId = account): LambdaError {
  const suffix = version === latest ? '' : `:${version}`;
  return new LambdaError(
    'ResourceNotFoundException',
    `Function not found: arn:aws:lambda:${process.env['AWS_REGION'] ?? 'us-east-1'}:${accountId}:function:${name}${suffix}`,
  );
}
