/** What the pages' builds have in common. */

import { fileURLToPath } from 'node:url';
import type { Plugin, UserConfig } from 'vite';

/** The npm package, from its sources: a page needs no build of it, and is checked against what is written now. */
const haikuq = fileURLToPath(new URL('../src/index.ts', import.meta.url));

/**
 * Origins besides the page's own that packages may come from, from the environment variable `HAIKUQ_CONNECT`, separated
 * by spaces. For sites that keep packages on another host.
 */
const connectOrigins = (process.env['HAIKUQ_CONNECT'] ?? '').split(/\s+/).filter((origin) => origin !== '');

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

/** Writes the policy into the built page, so that it holds on hosts that send no headers. Vite's dev server needs inline scripts. */
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
