/** The WebAssembly instance that all engines of a thread share: a trap in one of them ends it for all. */

import type { EngineModule } from '../engine/engine.js';
import type { OnTrap } from './traps.js';

export interface WasmInstance {
  Engine: EngineModule['Engine'];
  /** Of the instance that there is now; an engine belongs to the one in which it was made. */
  generation(): number;
  /** Makes another instance after a trap in one of this generation: once, however many engines and calls saw it. */
  reset(generation: number, trap: unknown): void;
  /**
   * Tells the trap before an instance ends. Calls that wait for the instance are never answered, and its engines can be
   * called during the listener for the last time.
   */
  onEnd: OnTrap;
}

export function wasmInstance(module: EngineModule): WasmInstance {
  let current = 0;
  const listeners = new Set<(trap: unknown) => void>();
  return {
    Engine: module.Engine,
    generation: () => current,
    reset(generation, trap) {
      if (generation !== current) return;
      current += 1;
      for (const listener of [...listeners]) listener(trap);
      module.__wbg_reset_state?.();
    },
    onEnd(listener) {
      // Wrapped, so that the same listener may be there twice.
      const entry = (trap: unknown) => listener(trap);
      listeners.add(entry);
      return () => void listeners.delete(entry);
    },
  };
}
