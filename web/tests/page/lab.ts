/** A page that holds the npm package, for tests that call it directly. It is never part of the site. */

import * as haikuq from 'haikuq';
import * as hybrid from 'haikuq/hybrid';
import type { HybridBackend } from 'haikuq/hybrid';

/** What a stream gave out, piece by piece, and how it ended. */
export interface Heard {
  pieces: string[];
  result?: haikuq.GenerationResult;
  error?: Failure;
}

export interface Failure {
  code: string;
  message: string;
  details: haikuq.ErrorDetails;
}

export interface Loaded {
  info?: haikuq.ModelInfo;
  progress: haikuq.LoadProgress[];
  error?: Failure;
}

declare global {
  interface Window {
    haikuq: typeof haikuq;
    hybrid: typeof hybrid;
    model: haikuq.Model;
    backend: HybridBackend;
    /** Calls of `onDeviceLost` for `model`. */
    deviceEvents: haikuq.DeviceLostEvent[];
    lab: typeof lab;
  }
}

export function failureOf(error: unknown): Failure {
  if (error instanceof haikuq.HaikuqError) return { code: error.code, message: error.message, details: error.details };
  return { code: `not a HaikuqError: ${String(error)}`, message: String(error), details: {} };
}

/** Loads into `window.model`. */
async function load(url: string, options: haikuq.LoadOptions = {}): Promise<Loaded> {
  const progress: haikuq.LoadProgress[] = [];
  window.deviceEvents = [];
  try {
    window.model = await haikuq.load(url, {
      onProgress: (event) => void progress.push(event),
      onDeviceLost: (event) => void window.deviceEvents.push(event),
      ...options,
    });
    return { info: window.model.info, progress };
  } catch (error) {
    return { error: failureOf(error), progress };
  }
}

/** Iterates a stream to its end. `onPiece` sees how many pieces there are. */
async function hear(stream: haikuq.TextStream, onPiece?: (count: number) => void): Promise<Heard> {
  const pieces: string[] = [];
  try {
    for await (const piece of stream) {
      pieces.push(piece);
      onPiece?.(pieces.length);
    }
    return { pieces, result: await stream.result };
  } catch (error) {
    return { pieces, error: failureOf(error) };
  }
}

/** Chats with `window.model`, or with what stands in for it. */
function chat(messages: haikuq.Message[], options: haikuq.ChatOptions = {}): Promise<Heard> {
  return hear(window.model.chat(messages, options));
}

/** Blobs in OPFS: name (their SHA-256) to bytes. */
async function storedBlobs(): Promise<Record<string, number>> {
  const blobs: Record<string, number> = {};
  const folder = await blobFolder();
  if (!folder) return blobs;
  for await (const handle of folder.values()) {
    if (handle.kind === 'file' && !handle.name.startsWith('.')) blobs[handle.name] = (await handle.getFile()).size;
  }
  return blobs;
}

/** Changes one bit of a stored blob. */
async function damageBlob(sha256: string, at: number): Promise<void> {
  const handle = await (await blobFolder())!.getFileHandle(sha256);
  const bytes = new Uint8Array(await (await handle.getFile()).slice(at, at + 1).arrayBuffer());
  const stream = await handle.createWritable({ keepExistingData: true });
  await stream.write({ type: 'write', position: at, data: Uint8Array.of(bytes[0]! ^ 0x10) });
  await stream.close();
}

async function blobFolder(): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('haikuq');
    return await folder.getDirectoryHandle('blobs');
  } catch {
    return undefined;
  }
}

const lab = { load, chat, hear, failureOf, storedBlobs, damageBlob };
Object.assign(window, { haikuq, hybrid, lab });
