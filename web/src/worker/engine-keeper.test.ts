import { beforeEach, describe, expect, it } from 'vitest';
import type { Engine, EngineModule } from '../engine/engine.js';
import { deviceLost } from '../testing/fake-engine.js';
import { createEngineKeeper, type EngineKeeper } from './engine-keeper.js';
import { watchTraps } from './traps.js';
import { wasmInstance } from './wasm-instance.js';

const failing = (code: string) => Object.assign(new Error(code), { code, details: {} });

let made: { freed: number; lost: number }[];
/** What making the next engines throws, first to last. */
let failures: (Error | undefined)[];
let resets: number;
let scope: EventTarget;
let keeper: EngineKeeper;

beforeEach(() => {
  made = [];
  failures = [];
  resets = 0;
  scope = new EventTarget();
  keeper = createEngineKeeper({
    async make() {
      const failure = failures.shift();
      if (failure) throw failure;
      const engine = { freed: 0, lost: 0 };
      made.push(engine);
      return { free: () => void (engine.freed += 1), loseDevice: () => void (engine.lost += 1) } as unknown as Engine;
    },
    instance: wasmInstance({ __wbg_reset_state: () => void (resets += 1) } as unknown as EngineModule),
    onTrap: watchTraps(scope),
    onDeviceLost: () => undefined,
    retryDelaysMs: [1, 1],
  });
});

/** Loses the device at the first try. */
function losesOnce() {
  let tries = 0;
  return async () => {
    tries += 1;
    if (tries === 1) throw deviceLost();
    return tries;
  };
}

describe('a lost device', () => {
  it('is asked for again while the browser has none', async () => {
    failures = [undefined, failing('webgpu-unavailable'), failing('device-lost')];
    expect(await keeper.use(losesOnce())).toEqual({ value: 2, losses: 1 });
    expect(made).toEqual([
      { freed: 1, lost: 0 },
      { freed: 0, lost: 0 },
    ]);
  });

  it('is given up in the end', async () => {
    failures = [undefined, ...Array.from({ length: 3 }, () => failing('webgpu-unavailable'))];
    await expect(keeper.use(losesOnce())).rejects.toMatchObject({ code: 'device-lost', cause: { code: 'webgpu-unavailable' } });
    expect(await keeper.use(async () => 'again')).toEqual({ value: 'again', losses: 0 });
  });
});

describe('an engine', () => {
  it.each(['out-of-memory', 'internal'])('is replaced for the next call after `%s`, with its device', async (code) => {
    await expect(keeper.use(() => Promise.reject(failing(code)))).rejects.toMatchObject({ code });
    expect(await keeper.use(async () => 'again')).toEqual({ value: 'again', losses: 0 });
    expect(made).toEqual([
      { freed: 1, lost: 1 },
      { freed: 0, lost: 0 },
    ]);
    expect(resets).toBe(0);
  });

  it.each(['invalid-argument', 'context-overflow', 'invalid-package'])('stays after `%s`', async (code) => {
    await expect(keeper.use(() => Promise.reject(failing(code)))).rejects.toMatchObject({ code });
    await keeper.get();
    expect(made).toEqual([{ freed: 0, lost: 0 }]);
  });
});

describe('a trap', () => {
  /** Whether the event was taken for the engine's. */
  function uncaught(error: unknown, how: 'error' | 'unhandledrejection' = 'error'): boolean {
    const event = Object.assign(new Event(how, { cancelable: true }), how === 'error' ? { error } : { reason: error });
    scope.dispatchEvent(event);
    return event.defaultPrevented;
  }

  it.each(['error', 'unhandledrejection'] as const)('ends every call that waits, and resets WebAssembly once (%s)', async (how) => {
    const waiting = [keeper.use(() => new Promise(() => undefined)), keeper.use(() => new Promise(() => undefined))];
    await keeper.get();
    await Promise.resolve();
    expect(uncaught(new WebAssembly.RuntimeError('unreachable'), how)).toBe(true);
    for (const call of waiting) await expect(call).rejects.toMatchObject({ code: 'internal' });
    expect(resets).toBe(1);
    await keeper.get();
    expect(made).toEqual([
      { freed: 1, lost: 1 },
      { freed: 0, lost: 0 },
    ]);
  });

  it('while an engine is made lets the next one begin anew', async () => {
    failures = [new WebAssembly.RuntimeError('unreachable')];
    await expect(keeper.use(async () => 1)).rejects.toMatchObject({ code: 'internal' });
    expect(resets).toBe(1);
    expect((await keeper.use(async () => 1)).value).toBe(1);
  });

  it('is not what other errors are, nor what nobody waits for', async () => {
    await keeper.use(async () => expect(uncaught(new TypeError('a defect of the page'))).toBe(false));
    expect(uncaught(new WebAssembly.RuntimeError('unreachable'))).toBe(false);
  });
});
