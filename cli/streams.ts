/**
 * The streams of jetstream triggers, made at deploy where the manifest asks for it: whoever starts from
 * `faas init` has no other program to make one with.
 */
import type { SiteInfo, SitePaths } from '../controller/stores/site.ts';
import type { Manifest } from './manifests.ts';
import { note } from './output.ts';

/** `metadata.annotations`: "true" makes missing streams, with the subject of their trigger. */
export const createStreamsAnnotation = 'atoll.dev/create-streams';
const connectMs = 5_000;

/** What cannot be done here shows in the trigger's condition, with its reason. */
export async function createMissingStreams(
  manifest: Manifest,
  info: SiteInfo,
  paths: SitePaths,
): Promise<void> {
  if (manifest.metadata.annotations?.[createStreamsAnnotation] !== 'true') return;
  const wanted = manifest.spec.triggers.flatMap(({ jetstream }) =>
    jetstream === undefined ? [] : [jetstream],
  );
  if (wanted.length === 0) return;
  const [{ jetstreamManager }, { openNats }, { openLog }, { lastConfig }] = await Promise.all([
    import('@nats-io/jetstream'),
    import('../runtime/clients/nats.ts'),
    import('../runtime/log.ts'),
    import('./doctor/folder.ts'),
  ]);
  // Where its credentials and certificates lie, the host's configuration says.
  const link = openNats(
    { ...(await lastConfig(paths)).nats, ...info.nats },
    {
      name: 'faas deploy',
      site: info.site,
      log: openLog({ level: 'silent' }),
    },
  );
  try {
    const connection = await Promise.race([
      link.connection(),
      new Promise<undefined>((resolve) => void setTimeout(() => resolve(undefined), connectMs).unref()),
    ]);
    if (connection === undefined) return;
    for (const { stream, subject, domain } of wanted) {
      const manager = await jetstreamManager(connection, domain === undefined ? {} : { domain });
      const isThere = await manager.streams.info(stream).then(
        () => true,
        () => false,
      );
      if (isThere) continue;
      await manager.streams.add({ name: stream, subjects: [subject ?? `${stream.toLowerCase()}.>`] });
      note(`stream ${stream} created`);
    }
  } catch (error) {
    note(`stream not created: ${(error as Error).message}`);
  } finally {
    await link.close();
  }
}
