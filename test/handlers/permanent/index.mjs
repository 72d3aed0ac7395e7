import { PermanentError } from 'atoll';
export const handler = async () => {
  throw new PermanentError('wrong for ever');
};
