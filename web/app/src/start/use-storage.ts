import { useCallback, useEffect, useState } from 'react';
import type { StorageUse, StoredPackage } from 'haikuq';
import type { Runtime } from '../../../shared/runtime.ts';

export interface PackageStorage {
  stored: StoredPackage[];
  /** `null` until it is known. */
  use: StorageUse | null;
  remove: (url: string) => Promise<void>;
}

/** The packages that are kept on this device. */
export function useStorage(runtime: Runtime): PackageStorage {
  const [stored, setStored] = useState<StoredPackage[]>([]);
  const [use, setUse] = useState<StorageUse | null>(null);
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
