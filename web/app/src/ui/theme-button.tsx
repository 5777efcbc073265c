import { useTheme, type Theme } from '../theme.ts';
import { Icon, type IconName } from './icon.tsx';

const next: Record<Theme, Theme> = { system: 'light', light: 'dark', dark: 'system' };
const icons: Record<Theme, IconName> = { system: 'system', light: 'sun', dark: 'moon' };
const names: Record<Theme, string> = { system: 'as the system', light: 'light', dark: 'dark' };

export function ThemeButton() {
  const [theme, setTheme] = useTheme();
  const label = `Colours: ${names[theme]}. Change to ${names[next[theme]]}`;
  return (
    <button
      type="button"
      className="button button--quiet button--icon"
      aria-label={label}
      title={label}
      onClick={() => setTheme(next[theme])}
    >
      <Icon name={icons[theme]} />
    </button>
  );
}
