// tsc compiles TypeScript alone: puts the WebAssembly build beside what it wrote.
import { cpSync, existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const from = fileURLToPath(new URL('../src/engine/generated', import.meta.url));
const to = fileURLToPath(new URL('../dist/engine/generated', import.meta.url));
if (!existsSync(from)) {
  console.error(`${from} is missing: build WebAssembly first (make web)`);
  process.exit(1);
}
cpSync(from, to, { recursive: true });
