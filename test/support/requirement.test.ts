import { beforeEach, expect, test, vi } from 'vitest';
import { temporaryFolder } from './folder.ts';
import { missing, requireTool } from './requirement.ts';

beforeEach(async () => {
  vi.stubEnv('PATH', '');
  vi.stubEnv('ATOLL_TOOLS', await temporaryFolder());
  return () => vi.unstubAllEnvs();
});

test('a missing tool is a reason to skip on a user’s machine, and says how to get it', async () => {
  vi.stubEnv('CI', '');
  const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const reason = await missing('minio', 'versitygw');
  said.mockRestore();
  expect(reason).toBe(
    'minio, versitygw not found; "node tools/install.ts minio versitygw" installs what is missing',
  );
});

test('a missing tool is a failure in CI', async () => {
  vi.stubEnv('CI', 'true');
  await expect(missing('minio')).rejects.toThrow('minio not found');
  await expect(requireTool('minio')).rejects.toThrow('node tools/install.ts minio');
});
