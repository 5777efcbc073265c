/** Builds the tests' page as an application would that has installed the package: from `dist`. */

import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

const dist = (file: string) => fileURLToPath(new URL(`../../dist/${file}`, import.meta.url));
const here = (file: string) => fileURLToPath(new URL(file, import.meta.url));

export default defineConfig({
  root: here('.'),
  base: './',
  logLevel: 'warn',
  resolve: {
    alias: [
      { find: /^haikuq$/, replacement: dist('index.js') },
      { find: /^haikuq\/hybrid$/, replacement: dist('hybrid/index.js') },
      { find: /^haikuq\/react$/, replacement: dist('react.js') },
    ],
  },
  worker: { format: 'es' },
  build: {
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rolldownOptions: { input: [here('index.html'), here('react.html')] },
  },
});
