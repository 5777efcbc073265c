/** Keeps one engine alive: makes it, replaces it when its device is lost, and throws it away when it may be broken. */

import type { Engine } from '../engine/engine.js';
import { HaikuqError } from '../errors.js';
import { isTrap, toHaikuqError } from '../failures.js';
import type { DeviceLostEvent } from '../types.js';
import { type OnTrap, orTrap } from './traps.js';
import type { WasmInstance } from './wasm-instance.js';

export interface EngineKeeper {
  /** The engine; a new one where there is none. */
  get(): Promise<Engine>;
  /**
   * Does `work` with the engine. After a trap, `out-of-memory` or `internal` the next call gets a new engine. When the device is lost meanwhile, does it again with a new engine: `work` must know
   * where it was. A second loss is thrown as `device-lost`. `losses` counts them.
   */
  use<T>(work: (engine: Engine) => Promise<T>): Promise<{ value: T; losses: number }>;
  free(): Promise<void>;
}

export interface EngineKeeperOptions {
  make: () => Promise<Engine>;
  /** In which `make` makes engines. Others make theirs in it too, and may end it. */
  instance: Pick<WasmInstance, 'generation' | 'reset' | 'onEnd'>;
  onTrap: OnTrap;
  onDeviceLost: (event: DeviceLostEvent) => void;
  /** Waits before a device is asked for again: after the browser's GPU process died, there is none for a while. */
  retryDelaysMs?: number[];
}

export function createEngineKeeper(options: EngineKeeperOptions): EngineKeeper {
  const { make, instance, onTrap, onDeviceLost, retryDelaysMs = [500, 2_000] } = options;
  let current: { promise: Promise<Engine>; generation: number } | undefined;
  /** What `current` resolved to. */
  let alive: Engine | undefined;
  let stopWatching = () => {};

  /** A trap of another engine ends the instance under this one's calls. */
  function onAnyTrap(listener: (trap: unknown) => void): () => void {
    const stops = [onTrap(listener), instance.onEnd(listener)];
    return () => stops.forEach((stop) => stop());
  }

  async function makeOne(generation: number): Promise<Engine> {
    try {
      const engine = await orTrap(Promise.resolve().then(make), onAnyTrap);
      alive = engine;
      stopWatching = instance.onEnd(() => forget(engine));
      return engine;
    } catch (error) {
      if (current?.generation === generation) current = undefined;
      if (isTrap(error)) instance.reset(generation, error);
      throw toHaikuqError(error);
    }
  }

  /** The instance ends: its engine's device is given back now, as nothing of it may be called afterwards. */
  function forget(engine: Engine): void {
    stopWatching();
    alive = undefined;
    current = undefined;
    try {
      engine.loseDevice();
    } catch {
      // After a trap it may trap again.
    }
  }

  /** The next call gets another engine, in a new WebAssembly instance after a trap. */
  function discard(engine: Engine, why: 'lost' | 'broken' | 'trapped', trap?: unknown): void {
    // Of several calls that fail with one engine, the first throws it away.
    if (!current || alive !== engine) return;
    const { generation } = current;
    stopWatching();
    alive = undefined;
    current = undefined;
    try {
      // Calls that trapped or still run hold the engine: freeing it alone would leave its device to the garbage collector.
      if (why !== 'lost') engine.loseDevice();
      engine.free();
    } catch {
      // After a trap it may trap again. Its memory goes with the instance.
    }
    if (why === 'trapped') instance.reset(generation, trap);
  }

  function get(): Promise<Engine> {
    const generation = instance.generation();
    // One that is being made in an instance that ended comes to nothing.
    if (current?.generation !== generation) current = { promise: makeOne(generation), generation };
    return current.promise;
  }

  async function replace(): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        await get();
        return;
      } catch (thrown) {
        const error = toHaikuqError(thrown);
        const delay = retryDelaysMs[tries];
        const transient = error.code === 'webgpu-unavailable' || error.code === 'device-lost';
        if (!transient || delay === undefined) {
          const message = `the device was lost and could not be replaced: ${error.message}`;
          throw new HaikuqError('device-lost', message, error.details, { cause: error });
        }
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }

  return {
    get,
    async use(work) {
      for (let losses = 0; ; losses++) {
        const engine = await get();
        try {
          return { value: await orTrap(work(engine), onAnyTrap), losses };
        } catch (thrown) {
          const error = toHaikuqError(thrown);
          if (isTrap(thrown)) discard(engine, 'trapped', thrown);
          // Buffers that could not be made are invalid for good, and after a defect nothing is certain.
          else if (error.code === 'out-of-memory' || error.code === 'internal') discard(engine, 'broken');
          if (error.code !== 'device-lost') throw error;
          discard(engine, 'lost');
          if (losses > 0) throw error;
          const { message } = error;
          onDeviceLost({ message, recovered: false });
          await replace();
          onDeviceLost({ message, recovered: true });
        }
      }
    },
    async free() {
      const engine = await current?.promise.catch(() => undefined);
      if (engine) discard(engine, 'lost');
    },
  };
}
