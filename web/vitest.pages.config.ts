/** Tests of the pages: apart from the package's own, because here `haikuq` means its sources. */

import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: {
    alias: [
      { find: /^haikuq$/, replacement: fileURLToPath(new URL('src/index.ts', import.meta.url)) },
      {
        find: /^.*\/generated\/haikuq_web(_grammar)?\.js$/,
        replacement: fileURLToPath(new URL('src/testing/no-generated.ts', import.meta.url)),
      },
    ],
  },
  test: { include: ['{shared,app,bench,validate}/**/*.test.ts'], environment: 'node', testTimeout: 60_000 },
});
