// Prints the size of files as they are, as gzip and as brotli, each at its best: `node sizes.mjs FILE...`
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const kB = (bytes) => `${(bytes / 1000).toFixed(1)} kB`.padStart(11);
const brotli = (bytes) =>
  brotliCompressSync(bytes, {
    params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length, [constants.BROTLI_PARAM_LGWIN]: 24 },
  });

console.log(`${''.padEnd(34)}${'raw'.padStart(11)}${'gzip'.padStart(11)}${'brotli'.padStart(11)}`);
const sum = [0, 0, 0];
for (const file of process.argv.slice(2)) {
  const bytes = readFileSync(file);
  const sizes = [bytes.length, gzipSync(bytes, { level: 9 }).length, brotli(bytes).length];
  sizes.forEach((size, i) => (sum[i] += size));
  console.log(basename(file).padEnd(34) + sizes.map(kB).join(''));
}
console.log('together'.padEnd(34) + sum.map(kB).join(''));
