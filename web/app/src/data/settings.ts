/** How answers are written: kept between visits, the same for all conversations. */

import type { ChatOptions } from 'haikuq';

/** Numbers that the user has set; an absent one is the package's own default. */
export interface Settings {
  system: string;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  maxTokens?: number;
  seed?: number;
}

export type SamplingKey = Exclude<keyof Settings, 'system'>;

export interface SamplingField {
  key: SamplingKey;
  label: string;
  help: string;
  min: number;
  max: number;
  step: number;
}

export const defaultSettings: Settings = { system: '' };

export const samplingFields: readonly SamplingField[] = [
  { key: 'temperature', label: 'Temperature', help: '0 always takes the likeliest token', min: 0, max: 5, step: 0.05 },
  { key: 'topK', label: 'Top-k', help: 'Only the k likeliest tokens; 0 is all', min: 0, max: 1_000_000, step: 1 },
  { key: 'topP', label: 'Top-p', help: 'Only the likeliest tokens up to this share; 1 is all', min: 0.01, max: 1, step: 0.01 },
  { key: 'minP', label: 'Min-p', help: 'Only tokens of this share of the likeliest; 0 is all', min: 0, max: 1, step: 0.01 },
  {
    key: 'repetitionPenalty',
    label: 'Repetition penalty',
    help: 'Over 1 discourages repeating',
    min: 0.1,
    max: 5,
    step: 0.05,
  },
  { key: 'maxTokens', label: 'Longest answer', help: 'In tokens', min: 1, max: 1_000_000, step: 1 },
  { key: 'seed', label: 'Seed', help: 'The same seed gives the same answer', min: 0, max: 4_294_967_295, step: 1 },
];

/** The number that was typed; `undefined` for nothing, a sentence for what is out of range. */
export function parseField(field: SamplingField, typed: string): number | undefined | string {
  if (typed.trim() === '') return undefined;
  const value = Number(typed);
  if (!Number.isFinite(value)) return `${field.label} must be a number`;
  if (field.step === 1 && !Number.isInteger(value)) return `${field.label} must be a whole number`;
  if (value < field.min || value > field.max) return `${field.label} must be from ${field.min} to ${field.max}`;
  return value;
}

/** Settings from what was kept, without any that are unknown or out of range. */
export function parseSettings(json: unknown): Settings {
  const kept = (typeof json === 'object' && json !== null ? json : {}) as Record<string, unknown>;
  const settings: Settings = { system: typeof kept['system'] === 'string' ? kept['system'] : '' };
  for (const field of samplingFields) {
    const value = kept[field.key];
    if (typeof value === 'number' && typeof parseField(field, String(value)) === 'number') settings[field.key] = value;
  }
  return settings;
}

/** The options of a call: only what the user has set. */
export function generationOptions({ system: _, ...sampling }: Settings): ChatOptions {
  return sampling;
}
