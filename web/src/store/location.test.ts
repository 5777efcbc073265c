import { describe, expect, it } from 'vitest';
import type { PackageLocation } from '../types.js';
import { fileUrl, packageKey, resolveLocation } from './location.js';

const resolve = (location: unknown) => resolveLocation(location as PackageLocation, 'https://example.org/app/index.html');

describe('resolveLocation', () => {
  it.each([
    ['packages/tiny', 'https://example.org/app/packages/tiny/', 'tiny'],
    ['/packages/tiny/', 'https://example.org/packages/tiny/', 'tiny'],
    ['https://cdn.example/a%20b/haikuq.json#x', 'https://cdn.example/a%20b/', 'a b'],
    ['https://cdn.example', 'https://cdn.example/', 'cdn.example'],
    ['https://cdn.example/p?token=1', 'https://cdn.example/p/?token=1', 'p'],
    ['chrome-extension://abcdef/packages/tiny', 'chrome-extension://abcdef/packages/tiny/', 'tiny'],
    ['app:///packages/tiny/', 'app:///packages/tiny/', 'tiny'],
    ['capacitor://localhost', 'capacitor://localhost/', 'localhost'],
  ])('%s is the prefix %s', (location, prefix, name) => {
    expect(resolve(location)).toEqual({ kind: 'url', prefix, name });
    expect(resolve(new URL(location, 'https://example.org/app/'))).toEqual({ kind: 'url', prefix, name });
  });

  it.each([
    'javascript:alert(1)',
    'data:application/json,{}',
    'file:///etc',
    'blob:https://example.org/1',
    'mailto:a@example.org',
    'https://user:pass@example.org/p',
    'https://',
    3,
    null,
    {},
    [{ name: 'x' }],
  ])('refuses %j', (location) => {
    expect(() => resolve(location)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  it.each([
    ['chrome-extension://abcdef/popup.html', 'chrome-extension://abcdef/packages/tiny/'],
    ['moz-extension://1-2-3/popup.html', 'moz-extension://1-2-3/packages/tiny/'],
    ['tauri://localhost', 'tauri://localhost/packages/tiny/'],
    ['capacitor://localhost/index.html', 'capacitor://localhost/packages/tiny/'],
    ['app://./index.html', 'app://./packages/tiny/'],
  ])('resolves against the page %s', (base, prefix) => {
    expect(resolveLocation('packages/tiny', base)).toEqual({ kind: 'url', prefix, name: 'tiny' });
  });

  it('takes handles of files', () => {
    const handles = ['haikuq.json', 's1'].map((name) => ({ kind: 'file', name }));
    expect(resolve(handles)).toEqual({ kind: 'files', name: 'package', files: handles });
  });

  it('takes the files beside the manifest of a dropped folder', () => {
    const file = (path: string) => {
      const made = new File(['x'], path.split('/').at(-1) as string);
      Object.defineProperty(made, 'webkitRelativePath', { value: path });
      return made;
    };
    const files = ['drop/readme.md', 'drop/tiny/haikuq.json', 'drop/tiny/s1', 'drop/tiny/old/s1'].map(file);
    expect(resolve(files)).toEqual({ kind: 'files', name: 'tiny', files: [files[1], files[2]] });
    expect(() => resolve([...files, file('drop/other/haikuq.json')])).toThrow(/2 packages/);
  });
});

describe('fileUrl', () => {
  it('joins, keeps the query, and names the hash', () => {
    expect(fileUrl('https://example.org/p/?token=1', 'a.json')).toBe('https://example.org/p/a.json?token=1');
    expect(fileUrl('https://example.org/p/', 'a.json', 'ff')).toBe('https://example.org/p/a.json?sha256=ff');
  });

  it('does not let a signature that changes make another package', () => {
    expect(packageKey('https://example.org/p/?token=1')).toBe('https://example.org/p/');
  });

  it('tells packages of apps and extensions apart, whose origin is null', () => {
    expect(packageKey('tauri://localhost/p/')).toBe('tauri://localhost/p/');
    expect(packageKey('app://one/p/')).not.toBe(packageKey('app://two/p/'));
    expect(packageKey('https://example.org:8443/p/')).toBe('https://example.org:8443/p/');
  });
});
