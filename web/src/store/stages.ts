/** How long each stage of a load was at work. Stages overlap, and those of one thread take turns. */

import type { LoadStage, LoadStages } from '../types.js';

export interface StageClock {
  /** Runs `work`; a stage is at work while any such promise of it is pending. */
  time<T>(stage: LoadStage, work: () => Promise<T>): Promise<T>;
  /** The same for what is done at once. */
  timeNow<T>(stage: LoadStage, work: () => T): T;
  /** Counts bytes that went through a stage. */
  add(stage: LoadStage, bytes: number): void;
  /** Until now. */
  stages(): LoadStages;
}

/** `now` in milliseconds. */
export function stageClock(now: () => number = () => performance.now()): StageClock {
  const none = () => ({ bytes: 0, ms: 0, running: 0, since: 0 });
  const counts = { fetch: none(), store: none(), read: none(), hash: none(), upload: none() };

  function begin(stage: LoadStage): () => void {
    const count = counts[stage];
    if (count.running++ === 0) count.since = now();
    return () => {
      if (--count.running === 0) count.ms += now() - count.since;
    };
  }
  return {
    async time(stage, work) {
      const end = begin(stage);
      try {
        return await work();
      } finally {
        end();
      }
    },
    timeNow(stage, work) {
      const end = begin(stage);
      try {
        return work();
      } finally {
        end();
      }
    },
    add(stage, bytes) {
      counts[stage].bytes += bytes;
    },
    stages() {
      const of = ({ bytes, ms }: { bytes: number; ms: number }) => ({ bytes, ms });
      const { fetch, store, read, hash, upload } = counts;
      return { fetch: of(fetch), store: of(store), read: of(read), hash: of(hash), upload: of(upload) };
    },
  };
}
