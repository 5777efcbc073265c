/** Numbers as people read them. */

const number = (digits: number) => new Intl.NumberFormat('en', { maximumFractionDigits: digits });
const whole = number(0);
const tenth = number(1);

export const formatCount = (value: number): string => whole.format(value);

/** Decimal units, as storage settings of browsers and systems show them. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${whole.format(bytes)} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = bytes / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${(value < 100 ? tenth : whole).format(value)} ${units[unit]}`;
}

/** 7,344,384 is “7.3M”. */
export function formatParameters(parameters: number): string {
  return new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 }).format(parameters);
}

/** Tokens a second, bits a weight: three digits are all that is known. */
export function formatRate(value: number): string {
  return (value < 10 ? number(2) : value < 100 ? tenth : whole).format(value);
}

/** Three digits of what may be very small: milliseconds on a GPU. */
export const formatFine = (value: number): string => new Intl.NumberFormat('en', { maximumSignificantDigits: 3 }).format(value);

export function formatMilliseconds(milliseconds: number): string {
  if (milliseconds < 1000) return `${whole.format(milliseconds)} ms`;
  return `${(milliseconds < 10_000 ? number(2) : tenth).format(milliseconds / 1000)} s`;
}

/** Time that is left, rounded up: “8 s”, “2 min”, “1 h 5 min”. */
export function formatRemaining(seconds: number): string {
  if (seconds <= 59) return `${Math.max(1, Math.ceil(seconds))} s`;
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
