import { useCallback, useEffect, useState } from 'react';
import type { Runtime } from '../runtime.ts';

export interface StoredPackage {
  url: string;
  name: string;
  bytes: number;
}

export interface PackageStorage {
  stored: StoredPackage[];
  /** Bytes of this site's storage, and how many it may have; `null` where the browser does not say. */
  use: { used: number; quota: number } | null;
  remove: (url: string) => Promise<void>;
}

/** The packages that are kept on this device. */
export function useStorage(runtime: Runtime): PackageStorage {
  const [stored, setStored] = useState<StoredPackage[]>([]);
  const [use, setUse] = useState<PackageStorage['use']>(null);
  const refresh = useCallback(async () => {
    // A browser without storage has nothing stored.
    setStored(await runtime.listStored().catch(() => []));
    setUse(await runtime.storageUse().catch(() => null));
  }, [runtime]);
  useEffect(() => void refresh(), [refresh]);
  const remove = async (url: string) => {
    await runtime.removeStored(url);
    await refresh();
  };
  return { stored, use, remove };
}
