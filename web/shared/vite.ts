/** What the pages' builds have in common. */

import { fileURLToPath } from 'node:url';
import type { Plugin, UserConfig } from 'vite';

/** The npm package, from its sources: a page needs no build of it, and is checked against what is written now. */
const haikuq = fileURLToPath(new URL('../src/index.ts', import.meta.url));

/**
 * Origins besides the page's own that packages may come from, from the environment variable `HAIKUQ_CONNECT`, separated
 * by spaces. For sites that keep packages on another host. Both the page's policy and its own check (`origins.ts`) have
 * them.
 */
const connectOrigins = (process.env['HAIKUQ_CONNECT'] ?? '')
  .split(/\s+/)
  .filter((entry) => entry !== '')
  .map(originOf);

function originOf(entry: string): string {
  const url = URL.canParse(entry) ? new URL(entry) : undefined;
  // With a path or a wildcard the policy and the check would disagree about what is meant.
  if (!url || !/^https?:$/.test(url.protocol) || url.href !== `${url.origin}/` || url.host.includes('*')) {
    throw new Error(`HAIKUQ_CONNECT: “${entry}” is no origin, such as https://packages.example.org`);
  }
  return url.origin;
}

/** The policy that `haikuq serve` sends as a header, less `frame-ancestors`, which only counts in a header. */
const contentSecurityPolicy = [
  `default-src 'self'`,
  `script-src 'self' 'wasm-unsafe-eval'`,
  `style-src 'self'`,
  `img-src 'self' data: blob:`,
  ['connect-src', `'self'`, ...connectOrigins].join(' '),
  `worker-src 'self' blob:`,
  `object-src 'none'`,
  `base-uri 'none'`,
  `form-action 'none'`,
].join('; ');

/**
 * Writes the policy into the built page, so that it holds for the page on hosts that send no headers. It does not hold
 * for workers: those obey what the host sends with their script. Where the host sends a policy too, both hold, so that
 * header can only forbid more. Vite's dev server needs inline scripts.
 */
function contentSecurityPolicyMeta(): Plugin {
  return {
    name: 'haikuq:content-security-policy',
    apply: 'build',
    transformIndexHtml: () => [
      {
        tag: 'meta',
        attrs: { 'http-equiv': 'Content-Security-Policy', content: contentSecurityPolicy },
        injectTo: 'head-prepend',
      },
    ],
  };
}

/** A page in `web/site/FOLDER` (the app itself where `folder` is empty). The app is built first: it empties `web/site`. */
export function pageConfig(folder: '' | 'bench' | 'validate', plugins: UserConfig['plugins'] = []): UserConfig {
  return {
    base: './',
    resolve: { alias: [{ find: /^haikuq$/, replacement: haikuq }] },
    define: { 'import.meta.env.HAIKUQ_CONNECT': JSON.stringify(connectOrigins.join(' ')) },
    plugins: [contentSecurityPolicyMeta(), ...plugins],
    worker: { format: 'es' },
    build: {
      outDir: fileURLToPath(new URL(`../site/${folder}`, import.meta.url)),
      emptyOutDir: true,
      target: 'es2022',
      // Every browser with WebGPU preloads modules; the polyfill would be bytes for nobody.
      modulePreload: { polyfill: false },
      // A data: URL is refused by the policy for everything but images, and hides what is fetched.
      assetsInlineLimit: 0,
    },
  };
}
