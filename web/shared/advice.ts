/** What to tell people about an error, by its code: a sentence each, no more than they can act on. */

import { HaikuqError, type ErrorCode, type ErrorDetails } from 'haikuq';
import { formatBytes, formatCount } from './format.ts';

export interface Advice {
  title: string;
  steps: string[];
}

export interface Failure {
  code: ErrorCode;
  message: string;
  details: ErrorDetails;
}

export function failureOf(error: unknown): Failure {
  if (error instanceof HaikuqError) return { code: error.code, message: error.message, details: error.details };
  return { code: 'internal', message: error instanceof Error ? error.message : String(error), details: {} };
}

const bytesOf = ({ needed, available }: ErrorDetails): string | undefined =>
  needed !== undefined && available !== undefined ? `${formatBytes(needed)} are needed and ${formatBytes(available)} are free.` : undefined;

const tokensOf = ({ needed, available }: ErrorDetails): string | undefined =>
  needed !== undefined && available !== undefined
    ? `${formatCount(needed)} tokens are needed and the model holds ${formatCount(available)}.`
    : undefined;

const limitOf = ({ limit, needed, available }: ErrorDetails): string | undefined =>
  limit !== undefined && needed !== undefined && available !== undefined
    ? `The package needs ${limit} of ${formatCount(needed)}; this device offers ${formatCount(available)}.`
    : undefined;

/** `secureContext`: whether the page was loaded over https or from this machine. */
export function adviceFor({ code, details }: Pick<Failure, 'code' | 'details'>, secureContext = true): Advice {
  const advice = (title: string, ...steps: (string | undefined)[]): Advice => ({
    title,
    steps: steps.filter((step) => step !== undefined),
  });
  switch (code) {
    case 'webgpu-unavailable':
      return secureContext
        ? advice(
            'This browser offers no WebGPU',
            'Use Chrome or Edge 121 or later, Safari 26, or Firefox 141 or later (Windows, recent Macs), and keep the system up to date.',
            'Check that “Use graphics acceleration when available” is on in the browser’s system settings, then restart it.',
            'On Linux, Chrome may also need the flag “Unsafe WebGPU Support” on its page chrome://flags.',
          )
        : advice(
            'This page was not loaded securely',
            'Browsers offer WebGPU only to pages from https addresses and from localhost. Open this one by either.',
          );
    case 'unsupported-device':
      return advice(
        'This device is too small for the package',
        limitOf(details),
        'Choose a smaller package, or one of fewer bits a weight.',
      );
    case 'network':
      return advice(
        details.file ? `${details.file} could not be fetched` : 'The package could not be fetched',
        details.status ? `The server answered with status ${details.status}.` : undefined,
        'Check the address and the connection and try again. The part that has arrived is kept, so the download goes on where it stopped.',
      );
    case 'integrity':
      return advice(
        details.file ? `${details.file} is damaged` : 'The package is damaged',
        'It was fetched again and still differs from what the package says. Tell whoever publishes the package, or choose another copy.',
      );
    case 'quota':
      return advice(
        'Not enough storage for this package',
        bytesOf(details),
        'Remove packages that you no longer use from the list on the start page, or free space on the device.',
      );
    case 'out-of-memory':
      return advice(
        'The device ran out of memory',
        'Close other tabs and programs and load the package again, or choose a smaller package.',
      );
    case 'context-overflow':
      return advice(
        'This is too long for the model',
        tokensOf(details),
        'Shorten the message or the system prompt, or start a new conversation.',
      );
    case 'device-lost':
      return advice(
        'The graphics device was lost',
        'The driver was reset, or the system needed the device. Load the package again; the conversation is kept.',
      );
    case 'invalid-package':
      return advice('This is not a package that haikuq can run', 'Choose a folder or an address that holds a haikuq.json.');
    case 'invalid-argument':
      return advice('Something that was asked for is not valid', 'Check the address and the settings; the words below say which.');
    case 'aborted':
      return advice('Cancelled');
    case 'cloud':
      return advice(
        'The server answered with an error',
        details.status ? `Its status was ${details.status}.` : undefined,
        'Try again later.',
      );
    case 'internal':
      return advice('Something went wrong in haikuq', 'Try again. If it happens once more, please report it with the words below.');
  }
}

/** Whether the model is of no more use after this and has to be loaded again. */
export const needsReload = (code: ErrorCode): boolean => ['device-lost', 'out-of-memory', 'internal'].includes(code);
