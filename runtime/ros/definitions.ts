/** Definitions of messages as the installed ROS packages have them: `<prefix>/share/<package>/{msg,srv}/<Name>.{msg,srv}`. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AtollError } from '../errors.ts';

export interface Definitions {
  /**
   * The text with all types that it uses, in MCAP's `ros2msg`. `pkg/srv/Name_Request` and `_Response` are the halves of a
   * service. Throws AtollError RosTypeNotFound.
   */
  text(type: string): string;
}

const separator = '='.repeat(80);
const primitive = /^(bool|byte|char|u?int(8|16|32|64)|float(32|64)|w?string)$/;

/** @param prefixes AMENT_PREFIX_PATH; the first one that has a type counts, as everywhere in ROS */
export function openDefinitions(prefixes: string, distro: string): Definitions {
  const shares = prefixes
    .split(':')
    .filter((prefix) => prefix !== '')
    .map((prefix) => join(prefix, 'share'));
  const texts = new Map<string, string>();

  function own(type: string): string {
    const [pkg = '', folder = '', name = ''] = type.split('/');
    const [, service = '', half] = /^(.*)_(Request|Response)$/.exec(name) ?? [];
    if (folder === 'srv' && half !== undefined) {
      const [request = '', response = ''] = file(type, pkg, 'srv', service).split(/^---.*$/m);
      return half === 'Request' ? request : response;
    }
    return file(type, pkg, folder, name);
  }

  function file(type: string, pkg: string, folder: string, name: string): string {
    for (const share of shares) {
      try {
        return readFileSync(join(share, pkg, folder, `${name}.${folder}`), 'utf8');
      } catch {
        // The next prefix may have it.
      }
    }
    throw notFound(type, pkg, folder);
  }

  function notFound(type: string, pkg: string, folder: string): AtollError {
    const share = shares.find((one) => existsSync(join(one, pkg)));
    if (share === undefined) {
      const debian = `ros-${distro}-${pkg.replaceAll('_', '-')}`;
      return new AtollError(
        'RosTypeNotFound',
        `${type}: the ROS package ${pkg} is not installed: install it (apt install ${debian}, or build it with colcon), source it, and start "faas up" again`,
      );
    }
    const there = names(join(share, pkg, folder));
    const has = there.length === 0 ? `no ${folder === 'srv' ? 'services' : 'messages'}` : there.join(', ');
    return new AtollError('RosTypeNotFound', `${type}: the ROS package ${pkg} in ${share} has ${has}`);
  }

  return {
    text(type) {
      let text = texts.get(type);
      if (text === undefined) {
        const parts = [own(type)];
        const seen = new Set<string>();
        const [pkg = ''] = type.split('/');
        const collect = (from: string, within: string): void => {
          for (const used of usedBy(from, within)) {
            if (seen.has(used)) continue;
            seen.add(used);
            const [usedPackage = '', name = ''] = used.split('/');
            const part = own(`${usedPackage}/msg/${name}`);
            parts.push(`${separator}\nMSG: ${used}\n${part}`);
            collect(part, usedPackage);
          }
        };
        collect(parts[0]!, pkg);
        text = parts.map((part) => (part === '' || part.endsWith('\n') ? part : `${part}\n`)).join('');
        texts.set(type, text);
      }
      return text;
    },
  };
}

/** `pkg/Name` of each type that is not a primitive. */
function usedBy(text: string, pkg: string): string[] {
  const used: string[] = [];
  for (const line of text.split('\n')) {
    const [, full = ''] = /^\s*([A-Za-z][\w/]*(?:<=\d+)?(?:\[[^\]]*\])?)\s+\w/.exec(line) ?? [];
    const type = full.replace(/\[.*$/, '').replace(/<=.*$/, '');
    if (type === '' || primitive.test(type)) continue;
    const [first = '', ...rest] = type.split('/');
    used.push(rest.length === 0 ? `${pkg}/${first}` : `${first}/${rest.at(-1)}`);
  }
  return used;
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter((file) => /\.(msg|srv)$/.test(file))
      .map((file) => file.replace(/\.\w+$/, ''))
      .sort();
  } catch {
    return [];
  }
}
