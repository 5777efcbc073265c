/** The service worker: keeps the app for visits without a server, and says when there is a newer one. */

import { useEffect, useState } from 'react';
import { registerSW } from 'virtual:pwa-register';

/** A function that loads the newer version, once there is one. */
export function useAppUpdate(): (() => void) | null {
  const [ready, setReady] = useState(false);
  const [update, setUpdate] = useState<(() => void) | null>(null);
  useEffect(() => {
    const apply = registerSW({ onNeedRefresh: () => setReady(true) });
    setUpdate(() => () => void apply(true));
  }, []);
  return ready ? update : null;
}
