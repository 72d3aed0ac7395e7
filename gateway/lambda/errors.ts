/** Lambda's errors: type, status and body as its API reference gives them, so that AWS's clients know them. */
import { type Code } from '../../runtime/errors.ts';

/** `message` is spelled as the shape of each error in Lambda's model spells it. */
const shapes = {
  InvalidRequestContentException: { status: 400, type: 'User', spelling: 'message' },
  InvalidParameterValueException: { status: 400, type: 'User', spelling: 'message' },
  RecursiveInvocationException: { status: 400, type: 'User', spelling: 'Message' },
  AccessDeniedException: { status: 403, type: 'User', spelling: 'Message' },
  InvalidSignatureException: { status: 403, type: 'User', spelling: 'message' },
  ResourceNotFoundException: { status: 404, type: 'User', spelling: 'Message' },
  UnknownOperationException: { status: 404, type: 'User', spelling: 'Message' },
  RequestTooLargeException: { status: 413, type: 'User', spelling: 'message' },
  TooManyRequestsException: { status: 429, type: 'User', spelling: 'message' },
  ServiceException: { status: 503, type: 'Service', spelling: 'Message' },
} as const;

export type LambdaErrorType = keyof typeof shapes;

export class LambdaError extends Error {
  readonly type: LambdaErrorType;
  /** Another status than the type's own. */
  readonly status: number;

  constructor(type: LambdaErrorType, message: string, status: number = shapes[type].status) {
    super(message);
    this.name = type;
    this.type = type;
    this.status = status;
  }
}

/** How Lambda names what our code means. */
const typeOf: Partial<Record<Code, [LambdaErrorType, status?: number]>> = {
  AccessDenied: ['AccessDeniedException'],
  // AWS's clients set their clock by our Date header when they hear this, and sign once more.
  ClockSkewed: ['InvalidSignatureException'],
  FunctionNotFound: ['ResourceNotFoundException'],
  NotFound: ['UnknownOperationException'],
  InvalidRequest: ['InvalidParameterValueException'],
  TooLarge: ['RequestTooLargeException'],
  TooManyRequests: ['TooManyRequestsException'],
  InboxFull: ['TooManyRequestsException'],
  InboxUnavailable: ['ServiceException'],
  Recursion: ['RecursiveInvocationException'],
  FunctionNotReady: ['ServiceException'],
  ConnectionLost: ['ServiceException', 502],
};

export function lambdaErrorOf(code: Code, message: string): LambdaError {
  const [type, status] = typeOf[code] ?? ['ServiceException', 500];
  return new LambdaError(type, message, status);
}

export function bodyOf(error: LambdaError): Record<string, string> {
  const { type, spelling } = shapes[error.type];
  const body: Record<string, string> = { Type: type, [spelling]: error.message };
  if (error.type === 'TooManyRequestsException') body['Reason'] = 'ConcurrentInvocationLimitExceeded';
  return body;
}
