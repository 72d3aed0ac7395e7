import { describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { manifest } from '../../charts/manifest.ts';
import { missing } from '../support/requirement.ts';
import { faas } from './run.ts';

interface Rendered {
  readonly kind: string;
  readonly spec?: { readonly template?: { readonly spec: { readonly containers: { image: string }[] } } };
}

const objectsOf = (text: string): Rendered[] =>
  parseAllDocuments(text).map((document) => document.toJSON() as Rendered);

describe.skipIf(await missing('helm'))('faas install', () => {
  test('prints the manifest, and above it every image that its pods have, and how to load it', async () => {
    const set = ['--set', 'nats.server.enabled=true', '--set', 'image.tag=1.2.3'];
    const { code, stdout, stderr } = await faas(['install', '--print', ...set]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(objectsOf(stdout)).toEqual(objectsOf(await manifest(set)));
    const [heading = ''] = stdout.split('\n---\n');
    expect(heading.split('\n').every((line) => line.startsWith('#'))).toBe(true);
    const images = objectsOf(stdout).flatMap(({ spec }) => spec?.template?.spec.containers ?? []);
    const names = [...new Set(images.map(({ image }) => image))].sort();
    expect(names).toEqual(['docker.io/library/atoll:1.2.3', 'docker.io/library/nats:2.15.2']);
    for (const name of names) expect(heading).toContain(name);
    expect(heading).toContain('ctr -n k8s.io images import dist/atoll-');

    const json = await faas(['install', '--print', '-o', 'json', ...set]);
    expect((JSON.parse(json.stdout) as { images: string[] }).images.sort()).toEqual(names);
  });

  test('applies nothing, and says which value the chart does not take', async () => {
    expect(await faas(['install'])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('faas install --print | kubectl apply') as string,
    });
    const wrong = await faas(['install', '--print', '--set', 'controller.replicas=0']);
    expect(wrong).toMatchObject({ code: 2, stdout: '' });
    expect(wrong.stderr).toMatch(/controller.*replicas/s);
  });
});
