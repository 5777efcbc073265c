import { beforeEach, expect, it } from 'vitest';
import { type FakeEngines, fakeEngines } from './testing/fake-engine.js';
import { matchers } from './testing/fake-grammar.js';
import { fakeModel } from './testing/fake-model.js';
import type { Model, ResponseFormat } from './types.js';

const JSON_SCHEMA: ResponseFormat = { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'string' } } };
const messages = [{ role: 'user', content: 'hi' }];
let engines: FakeEngines;
let model: Model;

beforeEach(async () => {
  engines = fakeEngines();
  model = await fakeModel(engines);
  matchers.length = 0;
});

it('each text has a format of its own, which is freed after it', async () => {
  await model.generate(['a', 'b'], { responseFormat: JSON_SCHEMA }).result;
  expect(matchers).toEqual([
    { format: JSON.stringify(JSON_SCHEMA), freed: true },
    { format: JSON.stringify(JSON_SCHEMA), freed: true },
  ]);
  expect(engines.made[0]?.requests.map(({ constraint }) => constraint?.allow(2))).toEqual([
    Uint32Array.of(0xffffffff, 0xffffffff),
    Uint32Array.of(0xffffffff, 0xffffffff),
  ]);
});

it('a text alone asks for nothing, and no module is loaded for it', async () => {
  await model.chat(messages, { responseFormat: { type: 'text' } }).result;
  await model.openai.chat.completions.create({ messages: [{ role: 'user', content: 'hi' }], response_format: { type: 'text' } });
  expect(matchers).toEqual([]);
  expect(engines.made[0]?.requests.every(({ constraint }) => constraint === undefined)).toBe(true);
});

it('a keyword that cannot be kept is refused before anything is written', async () => {
  const not: ResponseFormat = { type: 'json_schema', json_schema: { schema: { not: {} } } };
  const refused = model.chat(messages, { responseFormat: not }).result;
  await expect(refused).rejects.toMatchObject({ code: 'invalid-argument', details: { field: 'responseFormat' } });
  await expect(refused).rejects.toThrow('the JSON schema has "not" at #');
  expect(engines.made[0]?.requests).toEqual([]);
});

it('a trap in the parser ends the call, and no engine', async () => {
  const trap = model.chat(messages, { responseFormat: { type: 'regex', regex: 'trap' } }).result;
  await expect(trap).rejects.toMatchObject({ code: 'invalid-argument' });
  await model.chat(messages, { responseFormat: { type: 'regex', regex: 'a' } }).result;
  expect(engines.made).toHaveLength(1);
});

it.each([[{ type: 'xml' }], [{ type: 'regex' }], [{ type: 'grammar', grammar: 3 }], [{ type: 'json_schema', json_schema: {} }], ['json']])(
  '%j is no format',
  async (format) => {
    const refused = model.chat(messages, { responseFormat: format as ResponseFormat }).result;
    await expect(refused).rejects.toMatchObject({ code: 'invalid-argument', details: { field: 'responseFormat' } });
  },
);
