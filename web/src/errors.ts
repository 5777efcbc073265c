/** What went wrong, for programs; see docs/web.md for what to do about each. */
export type ErrorCode =
  /** The browser has no WebGPU, or no adapter. */
  | 'webgpu-unavailable'
  /** The device's limits are too small for the package. */
  | 'unsupported-device'
  /** A file could not be fetched. */
  | 'network'
  /** Bytes are not what the package's manifest says, also after they were fetched again. */
  | 'integrity'
  /** The browser's storage has too little room. */
  | 'quota'
  /** The GPU or the page ran out of memory. */
  | 'out-of-memory'
  /** The prompt does not fit into the context. */
  | 'context-overflow'
  /** The caller's signal aborted. */
  | 'aborted'
  /** The GPU device was lost and could not be recovered. */
  | 'device-lost'
  /** Not a haikuq package, or one that this runtime cannot run. */
  | 'invalid-package'
  /** An option out of its range, or a call that makes no sense. */
  | 'invalid-argument'
  /** A cloud route answered with an error. */
  | 'cloud'
  /** A defect of haikuq; please report it. */
  | 'internal';

/** Numbers and names that belong to an error; which ones depends on its code. */
export interface ErrorDetails {
  /** `invalid-argument`: the option or field, as the caller calls it. */
  field?: string;
  /** `network`, `integrity`: the file. */
  file?: string;
  /** `network`, `cloud`: the HTTP status. */
  status?: number;
  /** `quota`, `unsupported-device`, `context-overflow`: what is needed (bytes, or tokens). */
  needed?: number;
  /** `quota`, `unsupported-device`, `context-overflow`: what there is (bytes, or tokens). */
  available?: number;
  /** `unsupported-device`: WebGPU's name of the limit. */
  limit?: string;
  /** Of an answer that broke off: what was written until then. Absent where nothing was. */
  partialText?: string;
}

/** Every error that this package throws. */
export class HaikuqError extends Error {
  override readonly name = 'HaikuqError';
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = details;
  }
}
