/** What is measured, from a form or from the page's address. */

import { HaikuqError } from 'haikuq';

export interface BenchOptions {
  /** Tokens. */
  promptLengths: number[];
  outputLengths: number[];
  /** Measured texts for each pair of lengths. */
  repeat: number;
  /** Unmeasured texts for each prompt length, before the measured ones. */
  warmUp: number;
  /** Of the prompts' words. */
  seed: number;
  kvCache: 'auto' | 'f16' | 'f32';
  numerics: 'auto' | 'exact' | 'fast';
  /** Kernels that are taken for operations wherever they fit. */
  pins: Record<string, string>;
  /** Whether a step of prefill, of the longest prompt, and one of decode are taken apart. */
  profile: boolean;
  /** Measured loads from the network, with the package's stored copy removed before each, and as many from the store. */
  loads: number;
}

/** The same, as typed. */
export interface OptionFields {
  promptLengths: string;
  outputLengths: string;
  repeat: string;
  warmUp: string;
  seed: string;
  kvCache: string;
  numerics: string;
  pins: string;
  profile: string;
  loads: string;
}

export const defaultFields: OptionFields = {
  promptLengths: '16, 128, 512',
  outputLengths: '32, 128',
  repeat: '3',
  warmUp: '1',
  seed: '1',
  kvCache: 'auto',
  numerics: 'auto',
  pins: '',
  profile: '0',
  loads: '0',
};

/** The page's address says what to measure: `?package=…&prompts=16,128&outputs=32&repeat=1&warmup=1&seed=1&kv=f16&numerics=exact&pins=project=matvec&profile=1&loads=1&auto=1`. */
export function fieldsOfQuery(query: URLSearchParams): OptionFields {
  return {
    promptLengths: query.get('prompts') ?? defaultFields.promptLengths,
    outputLengths: query.get('outputs') ?? defaultFields.outputLengths,
    repeat: query.get('repeat') ?? defaultFields.repeat,
    warmUp: query.get('warmup') ?? defaultFields.warmUp,
    seed: query.get('seed') ?? defaultFields.seed,
    kvCache: query.get('kv') ?? defaultFields.kvCache,
    numerics: query.get('numerics') ?? defaultFields.numerics,
    pins: query.get('pins') ?? defaultFields.pins,
    profile: query.get('profile') ?? defaultFields.profile,
    loads: query.get('loads') ?? defaultFields.loads,
  };
}

const invalid = (message: string) => new HaikuqError('invalid-argument', message);

function wholeNumber(name: string, typed: string, min: number, max: number): number {
  const value = Number(typed);
  if (typed.trim() === '' || !Number.isInteger(value) || value < min || value > max) {
    throw invalid(`${name}: “${typed.trim()}” is not a whole number from ${min} to ${max}`);
  }
  return value;
}

function lengths(name: string, typed: string): number[] {
  const parts = typed.split(/[\s,]+/).filter((part) => part !== '');
  if (parts.length === 0) throw invalid(`${name}: at least one length is needed`);
  const values = parts.map((part) => wholeNumber(name, part, 1, 1_000_000));
  return [...new Set(values)].sort((a, b) => a - b);
}

function pinsOf(typed: string): Record<string, string> {
  const pins = typed.split(/[\s,]+/).filter((part) => part !== '');
  return Object.fromEntries(
    pins.map((pin) => {
      const [operation, kernel, ...rest] = pin.split('=');
      if (!operation || !kernel || rest.length > 0) throw invalid(`Pinned kernels: “${pin}” is not OPERATION=KERNEL`);
      return [operation, kernel];
    }),
  );
}

/** Throws `invalid-argument`, naming the field and what was typed. */
export function parseOptions(fields: OptionFields): BenchOptions {
  const { kvCache, numerics, profile } = fields;
  if (kvCache !== 'auto' && kvCache !== 'f16' && kvCache !== 'f32') {
    throw invalid(`Key/value cache: “${kvCache}” is not auto, f16 or f32`);
  }
  if (numerics !== 'auto' && numerics !== 'exact' && numerics !== 'fast') {
    throw invalid(`Numerics: “${numerics}” is not auto, exact or fast`);
  }
  if (profile !== '0' && profile !== '1') throw invalid(`Profile: “${profile}” is not 0 or 1`);
  return {
    promptLengths: lengths('Prompt lengths', fields.promptLengths),
    outputLengths: lengths('Output lengths', fields.outputLengths),
    repeat: wholeNumber('Repetitions', fields.repeat, 1, 1000),
    warmUp: wholeNumber('Warm-up', fields.warmUp, 0, 100),
    seed: wholeNumber('Seed', fields.seed, 0, 4_294_967_295),
    kvCache,
    numerics,
    pins: pinsOf(fields.pins),
    profile: profile === '1',
    loads: wholeNumber('Loads', fields.loads, 0, 100),
  };
}
