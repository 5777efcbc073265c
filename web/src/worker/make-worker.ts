/** The default worker: from this package's script, wherever that lies and whatever the page's policy for scripts asks for. */

import { HaikuqError } from '../errors.js';

const OPTIONS: WorkerOptions = { type: 'module', name: 'haikuq' };

/** How long a script of another origin may take. */
const BEGIN_MS = 30_000;

/**
 * Where the worker's script lies. Bundlers put it into a file of its own, and know it by one expression alone, which makes a
 * worker; hence that one is caught.
 */
export function workerScript(): URL {
  const own = globalThis.Worker;
  let found = '';
  globalThis.Worker = function caught(url: string | URL) {
    found = String(url);
  } as unknown as typeof Worker;
  try {
    new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'haikuq' });
  } finally {
    globalThis.Worker = own;
  }
  return new URL(found, globalThis.location.href);
}

/** Whether browsers start a worker with this script as it is: they ask for the page's own origin. */
export function isOwnScript({ origin, protocol, host }: URL): boolean {
  if (protocol === 'blob:' || protocol === 'data:' || origin === globalThis.origin) return true;
  // Schemes of apps have no origin in URLs.
  const { location } = globalThis;
  return !protocol.startsWith('http') && protocol === location.protocol && host === location.host;
}

/** Throws `internal` where there cannot be a worker. */
export function makeWorker(script: URL): Worker {
  try {
    return new Worker(trusted(script.href), OPTIONS);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const wayOut = trustedTypes() && !policy ? '; the page’s content security policy has to allow it: trusted-types haikuq' : '';
    throw new HaikuqError('internal', `the worker could not be made: ${why}${wayOut}`, {}, { cause: error });
  }
}

/**
 * A worker with the script of another origin: a script of one line is the page's own, and may import it. Throws where there
 * cannot be one; `begun` rejects where the script does not run.
 */
export function importingWorker(script: URL): { worker: Worker; begun: Promise<void> } {
  // To hash, the worker starts the same script under another name, and listens for other messages.
  const line = `import ${JSON.stringify(script.href)}; if (self.name === 'haikuq') postMessage('begun');`;
  const worker = makeWorker(new URL(URL.createObjectURL(new Blob([line], { type: 'text/javascript' }))));
  let timer: ReturnType<typeof setTimeout> | undefined;
  const begun = new Promise<void>((resolve, reject) => {
    timer = setTimeout(() => reject(new Error('it does not begin')), BEGIN_MS);
    worker.addEventListener('message', () => resolve(), { once: true });
    worker.addEventListener('error', ({ message }) => reject(new Error(message || 'it could not be loaded')), { once: true });
  });
  return { worker, begun: begun.finally(() => clearTimeout(timer)) };
}

/** TypeScript's DOM library leaves it out. */
interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL: (url: string) => string }): { createScriptURL(url: string): string };
}

const trustedTypes = () => (globalThis as { trustedTypes?: TrustedTypes }).trustedTypes;

let policy: ReturnType<TrustedTypes['createPolicy']> | undefined;

/**
 * Where a page's content security policy asks for trusted types, a URL has to come out of a policy that it allows by name.
 * Only URLs of this module go through this one.
 */
function trusted(url: string): string {
  try {
    policy ??= trustedTypes()?.createPolicy('haikuq', { createScriptURL: (url) => url });
  } catch {
    // Not allowed. The page may not ask for trusted types, or have a policy for all scripts.
  }
  return policy ? policy.createScriptURL(url) : url;
}
