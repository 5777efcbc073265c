import { describe, expect, it } from 'vitest';
import { packageName, packageUrl, parsePackageIndex, samePackage } from './packages.ts';

const base = 'https://example.org/app/?package=x';

describe('packageUrl', () => {
  it.each([
    ['packages/one', 'https://example.org/app/packages/one/'],
    ['packages/one/', 'https://example.org/app/packages/one/'],
    ['packages/one/haikuq.json', 'https://example.org/app/packages/one/'],
    ['/packages/one?signature=00#top', 'https://example.org/packages/one/?signature=00'],
    ['https://other.example/p', 'https://other.example/p/'],
  ])('spells %s one way', (address, expected) => {
    expect(packageUrl(address, base)).toBe(expected);
  });

  it.each(['http://[', 'javascript:alert(1)', 'data:text/plain,x', 'file:///etc/'])('refuses %s', (address) => {
    expect(() => packageUrl(address, base)).toThrow(address);
  });
});

it('knows a package by its address without the signature', () => {
  expect(samePackage('https://example.org/p/?a=1', 'https://example.org/p/?a=2')).toBe(true);
  expect(samePackage('https://example.org/p/', 'https://example.org/q/')).toBe(false);
});

describe('packageName', () => {
  it('is the last part of the address, as people write it', () => {
    expect(packageName('https://example.org/packages/haiku%207m/')).toBe('haiku 7m');
  });
  it('leaves an address alone that is not encoded well', () => {
    expect(packageName('https://example.org/packages/100%/')).toBe('100%');
  });
  it('is the host where there is no path', () => {
    expect(packageName('https://example.org/')).toBe('example.org');
  });
});

describe('parsePackageIndex', () => {
  it('makes addresses absolute and keeps what is known', () => {
    const index = { packages: [{ name: 'one', url: 'packages/one/', recipe: 'q4', bitsPerWeight: 5, weightBytes: 12, parameters: 3 }] };
    expect(parsePackageIndex(index, 'https://example.org/app/').packages).toEqual([
      { name: 'one', url: 'https://example.org/app/packages/one/', recipe: 'q4', bitsPerWeight: 5, weightBytes: 12, parameters: 3 },
    ]);
  });

  it('leaves out what is no package', () => {
    const index = { packages: [null, {}, { url: 5 }, { url: 'javascript:alert(1)' }, { url: 'p/two', bitsPerWeight: 'many' }] };
    expect(parsePackageIndex(index, 'https://example.org/').packages).toEqual([{ name: 'two', url: 'https://example.org/p/two/' }]);
  });

  it.each([null, 'text', [], { packages: {} }])('takes %j for no packages', (json) => {
    expect(parsePackageIndex(json, 'https://example.org/')).toEqual({ packages: [], load: {} });
  });

  it.each([
    [{ numerics: 'exact' }, { numerics: 'exact' }],
    [{ numerics: 'auto' }, {}],
    [{ numerics: 'double', worker: false }, {}],
    [null, {}],
  ])('takes of the load options %j those that it knows', (load, expected) => {
    expect(parsePackageIndex({ packages: [], load }, 'https://example.org/').load).toEqual(expected);
  });
});
