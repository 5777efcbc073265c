/**
 * Runs haikuq packages in the browser on WebGPU.
 *
 * ```js
 * const model = await load('https://example.org/packages/haiku-7m-q4/');
 * for await (const text of model.chat([{ role: 'user', content: 'Hello!' }])) document.body.append(text);
 * ```
 */

export { type ErrorCode, type ErrorDetails, HaikuqError } from './errors.js';
export { load } from './load.js';
export { listStored, removeStored, type StorageUse, storageUse, type StoredPackage } from './store/stored.js';
export type * from './types.js';
