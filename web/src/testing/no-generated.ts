/** Stands in for the WebAssembly build in units, which do without one. */

export default function initialize(): never {
  throw new Error('units have no WebAssembly');
}
export const Engine = undefined;
