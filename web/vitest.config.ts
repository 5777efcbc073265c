import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const noGenerated = fileURLToPath(new URL('src/testing/no-generated.ts', import.meta.url));

export default defineConfig({
  resolve: { alias: [{ find: /^.*\/generated\/haikuq_web(_grammar)?\.js$/, replacement: noGenerated }] },
  test: { include: ['src/**/*.test.{ts,tsx}', 'scripts/**/*.test.mjs'], environment: 'node' },
});
