/** Answers in a format, by the runtime and the parser as a page has them. */

import type { Page } from '@playwright/test';
import { chat, expect, openModel, PROMPT, test, user } from './support/test.ts';

let page: Page;
const modules: string[] = [];
test.beforeAll(async ({ browser, server }) => {
  page = await openModel(browser, server);
  page.on('request', (request) => {
    if (request.url().includes('haikuq_web_grammar')) modules.push(request.url());
  });
  // A worker's requests are seen by the context alone.
  page.context().on('request', (request) => {
    if (request.url().includes('haikuq_web_grammar_bg')) modules.push(request.url());
  });
});
test.afterAll(() => page.context().close());

const schema = {
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 8 },
    kind: { enum: ['dragon', 'rabbit', 'cloud'] },
    age: { type: 'integer', minimum: 1, maximum: 120 },
  },
  required: ['name', 'kind', 'age'],
  additionalProperties: false,
};

test('a page loads the parser with the first format, and answers parse and validate', async () => {
  await chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 2 });
  expect(modules).toEqual([]);
  for (const seed of [1, 2, 3]) {
    const responseFormat = { type: 'json_schema', json_schema: { name: 'creature', schema } } as const;
    const { result, error } = await chat(page, [user(PROMPT)], { temperature: 1, seed, maxTokens: 80, responseFormat });
    expect(error).toBeUndefined();
    const answer = JSON.parse(result!.text);
    expect(Object.keys(answer)).toEqual(['name', 'kind', 'age']);
    expect(schema.properties.kind.enum).toContain(answer.kind);
    expect(Number.isInteger(answer.age) && answer.age >= 1 && answer.age <= 120).toBe(true);
    expect(result!.finish).toBe('stop');
  }
});

test('expressions and grammars bind the whole text, and no format leaves the model free again', async () => {
  const regex = await chat(page, [user(PROMPT)], {
    temperature: 1,
    seed: 1,
    responseFormat: { type: 'regex', regex: '(yes|no), 20\\d\\d' },
  });
  expect(regex.result!.text).toMatch(/^(yes|no), 20\d\d$/);
  const grammar = 'start: "I " verb "."\nverb: "see" | "hear"\n';
  const line = await chat(page, [user(PROMPT)], { temperature: 1, seed: 1, responseFormat: { type: 'grammar', grammar } });
  expect(line.result!.text).toMatch(/^I (see|hear)\.$/);
  const free = await chat(page, [user(PROMPT)], { temperature: 0, maxTokens: 4 });
  expect(free.result).toMatchObject({ finish: 'length', usage: { completionTokens: 4 } });
});

test('a keyword that cannot be kept is refused by name before anything is written', async () => {
  const unique = { type: 'object', properties: { tags: { type: 'array', uniqueItems: true } } };
  const responseFormat = { type: 'json_schema', json_schema: { schema: unique } } as const;
  const { pieces, error } = await chat(page, [user(PROMPT)], { responseFormat });
  expect(pieces).toEqual([]);
  expect(error).toMatchObject({ code: 'invalid-argument' });
  expect(error!.message).toContain('"uniqueItems" at #/properties/tags');
});
