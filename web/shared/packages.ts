/** What a server offers: packages with their addresses, and how to load them. */

import { HaikuqError, type LoadOptions } from 'haikuq';

/** An entry of `packages/index.json`, its address made absolute. */
export interface OfferedPackage {
  name: string;
  /** Absolute, with a slash at the end. */
  url: string;
  recipe?: string;
  bitsPerWeight?: number;
  weightBytes?: number;
  parameters?: number;
}

/** How pages load a package unless they are told otherwise, such as by `haikuq serve --numerics exact`. */
export type ServedLoad = Pick<LoadOptions, 'numerics'>;

export interface PackageIndex {
  packages: OfferedPackage[];
  load: ServedLoad;
}

/** A package's address, absolute and with a slash at the end; a query, such as a signature, stays. Throws `invalid-argument`. */
export function packageUrl(address: string, base: string): string {
  let url: URL;
  try {
    url = new URL(address, base);
  } catch {
    throw new HaikuqError('invalid-argument', `“${address}” is not an address`);
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') {
    throw new HaikuqError('invalid-argument', `“${address}” is not an http or https address`);
  }
  url.hash = '';
  url.pathname = url.pathname.replace(/(\/haikuq\.json)?\/*$/, '/');
  return url.href;
}

/** Whether two absolute addresses are of one package: signatures in the query may differ. */
export function samePackage(one: string, other: string): boolean {
  const [a, b] = [new URL(one), new URL(other)];
  return a.origin === b.origin && a.pathname === b.pathname;
}

/** Last part of a package's address. */
export function packageName(url: string): string {
  const parts = new URL(url).pathname.split('/').filter((part) => part !== '');
  const last = parts.at(-1);
  if (last === undefined) return new URL(url).host;
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

const optionalNumber = (value: unknown): number | undefined => (typeof value === 'number' && Number.isFinite(value) ? value : undefined);

/** What is usable of a `packages/index.json`; entries that are not are left out. */
export function parsePackageIndex(json: unknown, root: string): PackageIndex {
  return { packages: parsePackages(json, root), load: parseLoad(json) };
}

function parseLoad(json: unknown): ServedLoad {
  const numerics = (json as { load?: { numerics?: unknown } | null } | null)?.load?.numerics;
  return numerics === 'exact' || numerics === 'fast' ? { numerics } : {};
}

function parsePackages(json: unknown, root: string): OfferedPackage[] {
  const entries = (json as { packages?: unknown } | null)?.packages;
  if (!Array.isArray(entries)) return [];
  const offered: OfferedPackage[] = [];
  for (const entry of entries as Record<string, unknown>[]) {
    if (typeof entry?.['url'] !== 'string') continue;
    let url: string;
    try {
      url = packageUrl(entry['url'], root);
    } catch {
      continue;
    }
    const parsed: OfferedPackage = { name: typeof entry['name'] === 'string' ? entry['name'] : packageName(url), url };
    if (typeof entry['recipe'] === 'string') parsed.recipe = entry['recipe'];
    for (const key of ['bitsPerWeight', 'weightBytes', 'parameters'] as const) {
      const value = optionalNumber(entry[key]);
      if (value !== undefined) parsed[key] = value;
    }
    offered.push(parsed);
  }
  return offered;
}

/** What the server at `root` offers: no packages on hosts that have no index. */
export async function fetchPackageIndex(root: string): Promise<PackageIndex> {
  try {
    const response = await fetch(new URL('packages/index.json', root));
    if (response.ok) return parsePackageIndex(await response.json(), root);
  } catch {
    // No server, or a host that answers every path with a page.
  }
  return { packages: [], load: {} };
}
