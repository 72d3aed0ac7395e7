/** functions/telemetry as it is deployed on a robot whose numbers are counted. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';

export const telemetryFolder = join(import.meta.dirname, '..', '..', 'functions', 'telemetry');
/** Of the simulated robot, beside what functions/telemetry sends as it is: each message is one more than the last. */
export const numbersTopic = '/numbers';

interface Manifest {
  readonly spec: {
    readonly env: { readonly name: string; value: string }[];
    readonly triggers: { readonly name: string; readonly ros?: { readonly topics: object[] } }[];
  };
}

/** The function's own manifest, with the robot's id and the numbers, lossless in that encoding, besides. YAML. */
export async function telemetryManifest(robot: string, as: 'json' | 'cdr'): Promise<string> {
  const manifest = parse(await readFile(join(telemetryFolder, 'function.yaml'), 'utf8')) as Manifest;
  const { env, triggers } = manifest.spec;
  for (const variable of env) {
    if (variable.name === 'ROBOT_ID') variable.value = robot;
    if (variable.name !== 'TELEMETRY') continue;
    const settings = parse(variable.value) as { topics: object[] };
    settings.topics.push({ ros: numbersTopic, as, class: 'lossless' });
    variable.value = stringify(settings);
  }
  const sensors = triggers.find(({ ros }) => ros !== undefined);
  sensors?.ros?.topics.push({ match: numbersTopic, raw: true, keepLast: 1000 });
  return stringify(manifest);
}
