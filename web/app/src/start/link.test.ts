import { afterEach, describe, expect, it, vi } from 'vitest';
import { linkedPackage } from './link.ts';

const page = (linked: string) => `https://example.org/app/?package=${encodeURIComponent(linked)}`;

afterEach(() => vi.unstubAllEnvs());

describe('linkedPackage', () => {
  it('is nothing where the address names none', () => {
    expect(linkedPackage('https://example.org/app/?other=1')).toBeNull();
  });

  it('opens a package of the page’s own origin', () => {
    expect(linkedPackage(page('packages/one'))).toEqual({
      to: 'open',
      choice: { name: 'one', location: 'https://example.org/app/packages/one/' },
    });
  });

  it('asks before it opens one of another origin, though the page was built for that', () => {
    vi.stubEnv('HAIKUQ_CONNECT', 'https://packages.example');
    expect(linkedPackage(page('https://packages.example/one'))).toEqual({ to: 'ask', address: 'https://packages.example/one/' });
  });

  it.each(['https://evil.example/p/', '//evil.example/p/', 'javascript:alert(1)'])('refuses %s', (linked) => {
    expect(linkedPackage(page(linked))).toMatchObject({ to: 'refuse', failure: { code: 'invalid-argument' } });
  });
});
