import { describe, expect, it } from 'vitest';
import { parseManifest } from './manifest.js';

const sha256 = '0123456789abcdef'.repeat(4);
const shard = { name: 'weights-00001-of-00001.safetensors', bytes: 5, sha256 };
const whole = {
  format: 'haikuq',
  version: { major: 2, minor: 7 },
  shards: [shard],
  files: [{ ...shard, name: 'tokenizer.json' }],
  later: 1,
};
const parse = (change: object) => parseManifest(JSON.stringify({ ...whole, ...change }));

describe('parseManifest', () => {
  it('takes a manifest of any minor version, with members that it does not know', () => {
    expect(parse({})).toMatchObject({ shards: [shard], files: [{ name: 'tokenizer.json', bytes: 5, sha256 }] });
    expect(parse({ files: undefined }).files).toEqual([]);
  });

  it.each([
    ['another format', { format: 'gguf' }, '"gguf"'],
    ['a later major version', { version: { major: 3, minor: 1 } }, '3.1 is not supported; this runtime reads 2.x: use a newer haikuq'],
    [
      'an earlier major version',
      { version: { major: 1, minor: 0 } },
      '1.0 is not supported; this runtime reads 2.x: convert the checkpoint again',
    ],
    ['no version', { version: undefined }, 'undefined.undefined'],
    ['no shards', { shards: [] }, 'empty'],
    ['shards that are no list', { shards: { 0: shard } }, '"shards"'],
    ['a path', { shards: [{ ...shard, name: '../../etc/passwd' }] }, '../../etc/passwd'],
    ['a hidden file', { shards: [{ ...shard, name: '.htaccess' }] }, '.htaccess'],
    ['a URL', { files: [{ ...shard, name: 'https://evil.example/x' }] }, 'evil.example'],
    ['a query', { files: [{ ...shard, name: 'a?b' }] }, 'a?b'],
    ['a name that is listed twice', { files: [shard] }, 'twice'],
    ['itself', { files: [{ ...shard, name: 'haikuq.json' }] }, 'twice'],
    ['a negative size', { shards: [{ ...shard, bytes: -1 }] }, '-1'],
    ['a size that is no integer', { shards: [{ ...shard, bytes: '5' }] }, '5'],
    ['a hash in capitals', { shards: [{ ...shard, sha256: sha256.toUpperCase() }] }, 'sha256'],
    ['a hash that is a path', { shards: [{ ...shard, sha256: `${sha256.slice(0, 61)}/..` }] }, 'sha256'],
  ])('refuses %s', (_, change, named) => {
    expect(() => parse(change)).toThrow(
      expect.objectContaining({ code: 'invalid-package', message: expect.stringContaining(named) as string }),
    );
  });

  it.each(['', '<html>', '[]', 'null', '3'])('refuses %j', (text) => {
    expect(() => parseManifest(text)).toThrow(expect.objectContaining({ code: 'invalid-package' }));
  });
});
