import { openInline } from '../../../runtime/invoker/inline.ts';
import { testInvoker } from '../../contracts/invoker.ts';

testInvoker(openInline, { loadedByNode: false });
