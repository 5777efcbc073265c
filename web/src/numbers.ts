/**
 * Numbers of JSON that JavaScript cannot hold, or would spell otherwise: an object stands for each, which the engine takes for
 * the number. Its one key, and what else is such a number, are those of `runtime/src/text/numbers.rs`.
 */

import { HaikuqError } from './errors.js';

const NUMBER = '\u0000number';

/** Strings and numbers of JSON; digits within strings are passed over. */
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;

/** `JSON.parse`, but for such numbers. Throws `SyntaxError`, and `invalid-argument` for integers beyond 128 bits. */
export function parseNumbers(name: string, json: string): unknown {
  // Errors quote the text as it is.
  const parsed: unknown = JSON.parse(json);
  let any = false;
  const written = json.replace(TOKENS, (token) => {
    if (token.startsWith('"') || String(Number(token)) === token) return token;
    any = true;
    return JSON.stringify(numberOf(name, token));
  });
  return any ? JSON.parse(written) : parsed;
}

/** A copy of what JSON can say, and of integers that are `bigint`. */
export function copyJson(name: string, value: unknown): unknown {
  const json = JSON.stringify(value, function (this: Record<string, unknown>, key: string, value: unknown) {
    // Pages teach `bigint` a `toJSON`; this is the value before it.
    const integer = this[key];
    return typeof integer === 'bigint' ? numberOf(name, String(integer)) : value;
  });
  return json === undefined ? undefined : JSON.parse(json);
}

/** JSON of a value with such objects, with the numbers in their places. */
export function writeNumbers(value: unknown): string {
  // Within a string every quote has a backslash before it.
  return JSON.stringify(value).replace(/\{"\\u0000number":"([^"\\]*)"\}/g, '$1');
}

function numberOf(name: string, token: string): { [NUMBER]: string } {
  if (/^-?\d+$/.test(token)) {
    const value = BigInt(token);
    if (value >= 2n ** 128n || value < -(2n ** 127n)) {
      const shown = token.length > 60 ? `${token.slice(0, 30)}…${token.slice(-10)}` : token;
      throw new HaikuqError('invalid-argument', `${name}: the integer ${shown} has more than 128 bits, which no template takes`, {
        field: name,
      });
    }
  }
  return { [NUMBER]: token };
}
