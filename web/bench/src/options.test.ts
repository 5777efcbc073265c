import { expect, it } from 'vitest';
import { defaultFields, fieldsOfQuery, parseOptions } from './options.ts';

it('measures three prompts with two outputs by default', () => {
  expect(parseOptions(fieldsOfQuery(new URLSearchParams()))).toEqual({
    promptLengths: [16, 128, 512],
    outputLengths: [32, 128],
    repeat: 3,
    warmUp: 1,
    seed: 1,
    kvCache: 'auto',
    numerics: 'auto',
    pins: {},
    profile: false,
    loads: 0,
  });
});

it('takes everything from the address', () => {
  const query = new URLSearchParams(
    'prompts=128,16,16&outputs=32&repeat=1&warmup=0&seed=7&kv=f32&numerics=exact&pins=project=matvec,attend=attention&profile=1&loads=2',
  );
  expect(parseOptions(fieldsOfQuery(query))).toEqual({
    promptLengths: [16, 128],
    outputLengths: [32],
    repeat: 1,
    warmUp: 0,
    seed: 7,
    kvCache: 'f32',
    numerics: 'exact',
    pins: { project: 'matvec', attend: 'attention' },
    profile: true,
    loads: 2,
  });
});

it.each([
  [{ promptLengths: '16, x' }, 'Prompt lengths: “x” is not a whole number from 1 to 1000000'],
  [{ promptLengths: ' , ' }, 'Prompt lengths: at least one length is needed'],
  [{ outputLengths: '0' }, 'Output lengths: “0” is not'],
  [{ repeat: '' }, 'Repetitions: “” is not'],
  [{ repeat: '2.5' }, 'Repetitions: “2.5” is not'],
  [{ warmUp: '-1' }, 'Warm-up: “-1” is not'],
  [{ kvCache: 'q8' }, 'Key/value cache: “q8” is not'],
  [{ numerics: 'f64' }, 'Numerics: “f64” is not'],
  [{ pins: 'matvec' }, 'Pinned kernels: “matvec” is not OPERATION=KERNEL'],
  [{ profile: 'yes' }, 'Profile: “yes” is not 0 or 1'],
])('refuses %j', (change, words) => {
  expect(() => parseOptions({ ...defaultFields, ...change })).toThrow(words);
});
