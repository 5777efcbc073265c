/**
 * Loading without a package, for the development server: `?fake` (an address starting with `error-CODE` fails so),
 * `?fake=plain` for a model without a chat template, `?fake=slow` for a load that one can watch.
 */

import { HaikuqError, type ErrorCode, type LoadOptions, type Model, type PackageLocation, type StoredPackage } from 'haikuq';
import type { Runtime } from '../runtime.ts';
import { createFakeModel } from './fake-model.ts';

export function fakeRuntime(query: URLSearchParams): Runtime {
  const kind = query.get('fake');
  const stored: StoredPackage[] = [
    { url: new URL('packages/fake-words/', document.baseURI).href, bytes: 4_626_432, totalBytes: 4_626_432, complete: true, store: 'opfs' },
    { url: 'https://example.org/a-larger-package/', bytes: 926_432_000, totalBytes: 1_926_432_000, complete: false, store: 'opfs' },
  ];

  async function load(location: PackageLocation, { onProgress, signal }: LoadOptions = {}): Promise<Model> {
    const total = kind === 'slow' ? 480_000_000 : 4_626_432;
    const steps = kind === 'slow' ? 100 : 5;
    const failing = /error-([a-z-]+)/.exec(String(location))?.[1] as ErrorCode | undefined;
    for (let step = 0; step <= steps; step += 1) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      signal?.throwIfAborted();
      const bytes = (total * step) / steps;
      onProgress?.({
        phase: step === 0 ? 'manifest' : step === steps ? 'ready' : 'download',
        bytes,
        totalBytes: total,
        downloadedBytes: bytes,
        downloadTotalBytes: total,
        bytesPerSecond: total / steps / 0.15,
      });
      if (failing && step > steps / 2) {
        throw new HaikuqError(failing, `a pretended ${failing}`, {
          file: 'weights-00001-of-00001.safetensors',
          needed: 2e9,
          available: 1e9,
        });
      }
    }
    const reply = kind === 'html' ? () => '<img src=x onerror="document.title=1"> <b>not bold</b> <script>1</script>' : undefined;
    return createFakeModel({ delayMs: 30, hasChatTemplate: kind !== 'plain', ...(reply ? { reply } : {}) });
  }

  return {
    load,
    listStored: async () => [...stored],
    async removeStored(url) {
      stored.splice(
        stored.findIndex((entry) => entry.url === url),
        1,
      );
    },
    async storageUse() {
      const packageBytes = stored.reduce((sum, { bytes }) => sum + bytes, 0);
      return { packageBytes, usage: packageBytes + 2_000_000, quota: 6e9, persisted: false };
    },
  };
}
