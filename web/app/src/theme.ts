/** Light or dark: as the system says, or as the user chose. */

import { useEffect } from 'react';
import { useKept } from './data/kept.ts';

export type Theme = 'system' | 'light' | 'dark';

const parseTheme = (json: unknown): Theme => (json === 'light' || json === 'dark' ? json : 'system');

export function useTheme(): [Theme, (theme: Theme) => void] {
  const [theme, setTheme] = useKept<Theme>('theme', parseTheme);
  useEffect(() => {
    if (theme === 'system') delete document.documentElement.dataset['theme'];
    else document.documentElement.dataset['theme'] = theme;
  }, [theme]);
  return [theme, setTheme];
}
