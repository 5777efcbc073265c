import { HaikuqError, type ErrorCode } from 'haikuq';
import { describe, expect, it } from 'vitest';
import { adviceFor, failureOf, needsReload } from './advice.ts';

// `Record` makes the compiler name a code that is missing here.
const codes = Object.keys({
  'webgpu-unavailable': 0,
  'unsupported-device': 0,
  network: 0,
  integrity: 0,
  quota: 0,
  'out-of-memory': 0,
  'context-overflow': 0,
  aborted: 0,
  'device-lost': 0,
  'invalid-package': 0,
  'invalid-argument': 0,
  cloud: 0,
  internal: 0,
} satisfies Record<ErrorCode, 0>) as ErrorCode[];

describe('adviceFor', () => {
  it('says something else for every code', () => {
    const titles = codes.map((code) => adviceFor({ code, details: {} }).title);
    expect(new Set(titles).size).toBe(codes.length);
  });

  it('tells what to do about everything that the user did not want', () => {
    for (const code of codes.filter((one) => one !== 'aborted')) {
      expect(adviceFor({ code, details: {} }).steps, code).not.toHaveLength(0);
    }
  });

  it('names the numbers of a quota', () => {
    expect(adviceFor({ code: 'quota', details: { needed: 2e9, available: 1e9 } }).steps[0]).toBe('2 GB are needed and 1 GB are free.');
  });

  it('names the limit that a device is short of', () => {
    const details = { limit: 'maxBufferSize', needed: 268_435_456, available: 134_217_728 };
    expect(adviceFor({ code: 'unsupported-device', details }).steps[0]).toContain('maxBufferSize of 268,435,456');
  });

  it('does not send people to another browser when the address is at fault', () => {
    expect(adviceFor({ code: 'webgpu-unavailable', details: {} }, false).title).toBe('This page was not loaded securely');
  });
});

it('takes what is no HaikuqError for a defect', () => {
  expect(failureOf(new TypeError('x is undefined'))).toEqual({ code: 'internal', message: 'x is undefined', details: {} });
  expect(failureOf('words')).toEqual({ code: 'internal', message: 'words', details: {} });
  const error = new HaikuqError('network', 'no route', { file: 'haikuq.json', status: 503 });
  expect(failureOf(error)).toEqual({ code: 'network', message: 'no route', details: { file: 'haikuq.json', status: 503 } });
});

it('asks for another load only where the model is gone', () => {
  expect(codes.filter(needsReload)).toEqual(['out-of-memory', 'device-lost', 'internal']);
});
