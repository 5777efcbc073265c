import { afterEach, describe, expect, it, vi } from 'vitest';
import { requireAllowedOrigin } from './origins.ts';

const page = 'https://example.org/app/?package=x';

afterEach(() => vi.unstubAllEnvs());

describe('requireAllowedOrigin', () => {
  it.each(['packages/one/', '/packages/one/', 'https://example.org/p/', new URL('https://example.org/p/')])(
    'allows %s of the page’s own',
    (location) => {
      expect(() => requireAllowedOrigin(location, page)).not.toThrow();
    },
  );

  it('allows files, which are on this device', () => {
    expect(() => requireAllowedOrigin([new File([], 'haikuq.json')], page)).not.toThrow();
  });

  it.each([
    ['https://evil.example/p/', 'https://evil.example'],
    ['//evil.example/p/', 'https://evil.example'],
    ['http://example.org/p/', 'http://example.org'],
    ['https://example.org:8443/p/', 'https://example.org:8443'],
    ['https://example.org.evil.example/p/', 'https://example.org.evil.example'],
  ])('refuses %s and says how to allow it', (location, origin) => {
    expect(() => requireAllowedOrigin(location, page)).toThrow(`HAIKUQ_CONNECT=${origin} `);
    expect(() => requireAllowedOrigin(new URL(location, page), page)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it('allows the origins that the page was built for, and no others', () => {
    vi.stubEnv('HAIKUQ_CONNECT', 'https://packages.example https://more.example:8443');
    expect(() => requireAllowedOrigin('https://packages.example/p/', page)).not.toThrow();
    expect(() => requireAllowedOrigin('https://more.example:8443/p/', page)).not.toThrow();
    expect(() => requireAllowedOrigin('https://more.example/p/', page)).toThrow('https://more.example:');
  });
});
