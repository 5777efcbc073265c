/** Between the browser and `haikuq serve`: writes down every request, and misbehaves as a test asks. */

import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { Server } from './haikuq.ts';

export interface LoggedRequest {
  method: string;
  path: string;
  query: string;
  /** Last part of the path. */
  file: string;
  /** First byte that a Range header asks for; 0 without one. */
  from: number;
  /** Bytes of the body that were sent. */
  sent: number;
  /** The body was sent to its end. */
  finished: boolean;
  /** Requests for weights that were not answered to their end when this one came, itself included. */
  inFlight: number;
}

/** What goes wrong with one answer. Positions are bytes of the file. */
export interface Fault {
  /** The connection breaks before this byte. */
  breakAt?: number;
  /** A bit of this byte is wrong. */
  flipAt?: number;
  /** The answer waits before this byte. */
  holdAt?: number;
  /** What a held answer waits for. */
  until?: Promise<unknown>;
  /** The server knows no ranges: everything is sent, with status 200. */
  ignoreRange?: boolean;
  /** This status instead of an answer. */
  status?: number;
  /** A header of the answer is missing. */
  dropHeader?: string;
}

export interface FaultyServer extends Server {
  /** All requests since the start, or since they were forgotten. */
  requests: LoggedRequest[];
  /** Those for a package's weights. */
  weights(): LoggedRequest[];
  /** Those for a package's files other than the manifest. */
  packageFiles(): LoggedRequest[];
  /** Forgets the requests, the faults and the answers. */
  reset(): void;
  /** Asked for each request; undefined is a faithful answer. */
  fault: (request: LoggedRequest) => Fault | undefined;
  /** Answers requests under this path itself, such as `/cloud/`. */
  answer: Map<string, (request: IncomingMessage, response: ServerResponse) => void>;
  /** Breaks all connections and refuses new ones. */
  goDown(): Promise<void>;
  /** Comes back at the same address. */
  comeUp(): Promise<void>;
}

export async function faultyServer(upstream: Server): Promise<FaultyServer> {
  const target = new URL(upstream.url);
  const server = http.createServer((request, response) => void handle(request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  const self: FaultyServer = {
    url: `http://127.0.0.1:${port}/`,
    requests: [],
    weights: () => self.requests.filter(isWeights),
    packageFiles: () => self.requests.filter(({ path, file }) => path.startsWith('/packages/') && !/^(haikuq|index)\.json$/.test(file)),
    reset() {
      self.requests.length = 0;
      self.fault = () => undefined;
      self.answer.clear();
    },
    fault: () => undefined,
    answer: new Map(),
    async goDown() {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
    async comeUp() {
      if (server.listening) return;
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
    },
    stop: () => self.goDown(),
  };

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, search } = new URL(request.url ?? '/', self.url);
    const logged: LoggedRequest = {
      method: request.method ?? '',
      path: pathname,
      query: search,
      file: pathname.split('/').at(-1) ?? '',
      from: Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0),
      sent: 0,
      finished: false,
      inFlight: 0,
    };
    self.requests.push(logged);
    logged.inFlight = self.weights().filter(({ finished }) => !finished).length;
    response.on('close', () => (logged.finished = true));

    const own = [...self.answer].find(([prefix]) => pathname.startsWith(prefix));
    if (own) return own[1](request, response);
    const fault = self.fault(logged) ?? {};
    if (fault.status !== undefined) {
      response.writeHead(fault.status, { 'content-type': 'text/plain' });
      response.end('out of order');
      return;
    }
    try {
      const answered = await ask(request, fault);
      response.once('close', () => answered.destroy());
      if (fault.dropHeader) delete answered.headers[fault.dropHeader];
      response.writeHead(answered.statusCode ?? 502, answered.headers);
      await send(answered, response, logged, fault);
    } catch {
      // The browser hung up, or the server behind is gone.
      response.destroy();
    }
  }

  async function ask(request: IncomingMessage, { ignoreRange }: Fault): Promise<IncomingMessage> {
    const headers = { ...request.headers, host: target.host };
    if (ignoreRange) delete headers.range;
    const forwarded = http.request({ host: target.hostname, port: target.port, method: request.method, path: request.url, headers });
    request.pipe(forwarded);
    const [answered] = (await once(forwarded, 'response')) as [IncomingMessage];
    return answered;
  }
  return self;
}

async function send(answered: IncomingMessage, response: ServerResponse, logged: LoggedRequest, fault: Fault): Promise<void> {
  const { breakAt = Infinity, flipAt = Infinity, until } = fault;
  let { holdAt = Infinity } = fault;
  let at = answered.statusCode === 206 ? logged.from : 0;

  async function write(bytes: Buffer): Promise<void> {
    if (bytes.length === 0) return;
    logged.sent += bytes.length;
    if (!response.write(bytes)) await drained(response);
  }
  for await (const chunk of answered as AsyncIterable<Buffer>) {
    if (response.destroyed) return;
    const end = at + chunk.length;
    if (at <= flipAt && flipAt < end) chunk[flipAt - at]! ^= 0x04;
    let rest = chunk;
    if (holdAt < end) {
      const before = Math.max(0, holdAt - at);
      await write(rest.subarray(0, before));
      rest = rest.subarray(before);
      holdAt = Infinity;
      await until;
    }
    if (breakAt < end) {
      await write(rest.subarray(0, Math.max(0, breakAt - (end - rest.length))));
      // The bytes so far have to arrive before the connection breaks.
      await new Promise((resolve) => setTimeout(resolve, 300));
      response.destroy();
      return;
    }
    await write(rest);
    at = end;
  }
  response.end();
}

/** There is room for more, or nobody listens any longer. */
function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done);
      response.off('close', done);
      resolve();
    };
    response.on('drain', done);
    response.on('close', done);
  });
}

function isWeights({ file }: LoggedRequest): boolean {
  return file.endsWith('.safetensors');
}
