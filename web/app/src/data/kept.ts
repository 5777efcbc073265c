/** Small values that stay between visits. A browser that refuses storage loses them, nothing else. */

import { useCallback, useState } from 'react';

const PREFIX = 'haikuq.';

export function readKept(key: string, storage: () => Storage = () => localStorage): unknown {
  try {
    return JSON.parse(storage().getItem(PREFIX + key) ?? 'null') as unknown;
  } catch {
    return null;
  }
}

export function writeKept(key: string, value: unknown, storage: () => Storage = () => localStorage): void {
  try {
    if (value === null) storage().removeItem(PREFIX + key);
    else storage().setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // Storage is full or off.
  }
}

/** State that stays between visits. `parse` makes a value of whatever was kept, `null` included. */
export function useKept<T>(key: string, parse: (json: unknown) => T): [T, (value: T) => void] {
  const [value, setValue] = useState(() => parse(readKept(key)));
  const set = useCallback(
    (next: T) => {
      setValue(next);
      writeKept(key, next);
    },
    [key],
  );
  return [value, set];
}
