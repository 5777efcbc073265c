import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { importingWorker, isOwnScript, makeWorker, workerScript } from './make-worker.js';

/** What workers are made with; they do what a test has them do. */
class FakeWorker extends EventTarget {
  static made: [url: unknown, options: WorkerOptions][] = [];
  constructor(url: unknown, options: WorkerOptions) {
    super();
    FakeWorker.made.push([url, options]);
  }
}

function at(href: string, origin = new URL(href).origin): void {
  vi.stubGlobal('location', new URL(href));
  vi.stubGlobal('origin', origin);
}
beforeEach(() => {
  FakeWorker.made = [];
  vi.stubGlobal('Worker', FakeWorker);
  at('https://example.org/app/');
});
afterEach(() => vi.unstubAllGlobals());

it('finds its script without a worker, and leaves the page’s Worker as it was', () => {
  expect(workerScript().pathname).toMatch(/\/worker\/worker\.(js|ts)$/);
  expect(FakeWorker.made).toEqual([]);
  expect(globalThis.Worker).toBe(FakeWorker);
});

describe('a script', () => {
  it.each([
    ['https://example.org/app/', undefined, 'https://example.org/js/worker.js', true],
    ['https://example.org/app/', undefined, 'https://cdn.example/js/worker.js', false],
    ['https://example.org/app/', undefined, 'https://example.org:8443/js/worker.js', false],
    // A sandboxed frame has the address of the site, and no origin.
    ['https://example.org/app/', 'null', 'https://example.org/js/worker.js', false],
    ['chrome-extension://abc/popup.html', undefined, 'chrome-extension://abc/js/worker.js', true],
    ['tauri://localhost/', 'tauri://localhost', 'tauri://localhost/js/worker.js', true],
    ['app://./index.html', 'app://.', 'https://cdn.example/js/worker.js', false],
    ['https://example.org/app/', undefined, 'blob:https://example.org/1', true],
  ])('of the page %s with origin %s: %s is its own: %s', (page, origin, script, own) => {
    at(page, origin);
    expect(isOwnScript(new URL(script))).toBe(own);
  });

  it('of the page’s own is started as it is', () => {
    makeWorker(new URL('https://example.org/js/worker.js'));
    expect(FakeWorker.made).toEqual([['https://example.org/js/worker.js', { type: 'module', name: 'haikuq' }]]);
  });

  it('of another origin is imported by a script of one line, which says when it runs', async () => {
    const blobs: Blob[] = [];
    vi.spyOn(URL, 'createObjectURL').mockImplementation((blob) => (blobs.push(blob as Blob), 'blob:https://example.org/1'));
    const { worker, begun } = importingWorker(new URL('https://cdn.example/js/worker.js'));
    expect(FakeWorker.made).toEqual([['blob:https://example.org/1', { type: 'module', name: 'haikuq' }]]);
    expect(await blobs[0]?.text()).toContain('import "https://cdn.example/js/worker.js";');
    worker.dispatchEvent(new MessageEvent('message', { data: 'begun' }));
    await begun;
    const failing = importingWorker(new URL('https://cdn.example/js/worker.js'));
    failing.worker.dispatchEvent(new Event('error'));
    await expect(failing.begun).rejects.toThrow('could not be loaded');
  });
});

describe('trusted types', () => {
  it('have a policy of their own, made once', async () => {
    const createPolicy = vi.fn((_: string, rules: { createScriptURL: (url: string) => string }) => ({
      createScriptURL: (url: string) => ({ trusted: rules.createScriptURL(url) }),
    }));
    vi.stubGlobal('trustedTypes', { createPolicy });
    vi.resetModules();
    const fresh = await import('./make-worker.js');
    fresh.makeWorker(new URL('https://example.org/js/worker.js'));
    fresh.makeWorker(new URL('https://example.org/js/worker.js'));
    expect(createPolicy).toHaveBeenCalledOnce();
    expect(createPolicy.mock.calls[0]?.[0]).toBe('haikuq');
    expect(FakeWorker.made.map(([url]) => url)).toEqual(Array(2).fill({ trusted: 'https://example.org/js/worker.js' }));
  });

  it('that do not allow it are named, with the way out', async () => {
    const refuse = (what: string) => {
      throw new TypeError(what);
    };
    vi.stubGlobal('trustedTypes', { createPolicy: () => refuse('policy "haikuq" disallowed') });
    vi.stubGlobal('Worker', function refusing() {
      refuse("this document requires 'TrustedScriptURL'");
    });
    vi.resetModules();
    const fresh = await import('./make-worker.js');
    const thrown = (() => {
      try {
        return fresh.makeWorker(new URL('https://example.org/js/worker.js'));
      } catch (error) {
        return error;
      }
    })();
    expect(thrown).toMatchObject({ code: 'internal', message: expect.stringMatching(/TrustedScriptURL.*trusted-types haikuq/) as string });
  });
});
