import { openInline } from '../../../runtime/invoker/inline.ts';
import { testInvoker } from '../../contracts/invoker.ts';
import { testStreaming } from '../../contracts/streaming.ts';

testInvoker(openInline, { loadedByNode: false });
testStreaming(openInline);
