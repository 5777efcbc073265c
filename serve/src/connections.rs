//! Connections: how many there are at once, how long they may do nothing, and what ends them.
//!
//! | bound | what happens then |
//! | --- | --- |
//! | [`HEADERS`] from one request to the headers of the next | the connection ends |
//! | [`STALLED`] without a byte of an answer taken | the connection ends |
//! | as many connections as [`limit`] says | those that have been idle longest end; the others' turns come |

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

/// From one request's end, or the connection's beginning, to the whole of the next one's headers.
pub(super) const HEADERS: Duration = Duration::from_secs(30);

/// How long a client may take nothing of an answer that waits for it; pages that are put to sleep go on after a break.
const STALLED: Duration = Duration::from_secs(300);

/// How often it is looked whether a client still takes its answer.
const TICK: Duration = Duration::from_secs(10);

/// How long an idle connection may take to end when its place is needed.
const FAREWELL: Duration = Duration::from_secs(1);

/// Most connections at once.
const MAX_CONNECTIONS: usize = 1024;

/// Connections that the system keeps until it is their turn.
const BACKLOG: i32 = 1024;

/// Files that are open besides those of connections, generously.
const OTHER_FILES: usize = 64;

/// Files that all connections and the rest take.
#[cfg(unix)]
const WANTED_FILES: libc::rlim_t = (2 * MAX_CONNECTIONS + OTHER_FILES) as libc::rlim_t;

/// Lets more clients wait for their turn than a listener does by itself.
pub(super) fn lengthen_backlog(listener: &TcpListener) {
    // SAFETY: a socket that listens already. Where it cannot be, clients that come at once try again by themselves.
    #[cfg(unix)]
    let _ = unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(listener), BACKLOG) };
    #[cfg(not(unix))]
    let _ = (listener, BACKLOG);
}

/// Connections at once: each takes a file for itself and one for what it is sent, of as many as the system allows.
fn limit() -> usize {
    #[cfg(unix)]
    {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a plain struct, which the system fills. Programs start with a low limit for the sake of very old ones; a
        // refusal of a higher one changes nothing.
        unsafe {
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
                return MAX_CONNECTIONS / 8;
            }
            let raised = libc::rlimit { rlim_cur: limit.rlim_max.min(WANTED_FILES).max(limit.rlim_cur), ..limit };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) == 0 {
                limit = raised;
            }
        }
        let files = usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX);
        (files.saturating_sub(OTHER_FILES) / 2).clamp(8, MAX_CONNECTIONS)
    }
    #[cfg(not(unix))]
    MAX_CONNECTIONS
}

/// What is known of a connection.
struct State {
    /// Answers under way.
    answers: AtomicUsize,
    /// Whether a request came at all.
    asked: AtomicBool,
    /// Whether an answer is being sent.
    sending: AtomicBool,
    /// When something last happened.
    since: Mutex<Instant>,
    /// Its place is needed.
    close: Notify,
}

impl State {
    fn touch(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn quiet(&self) -> Duration {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn is_idle(&self) -> bool {
        self.answers.load(Ordering::Acquire) == 0
    }
}

/// All connections that are open.
#[derive(Default)]
struct Open {
    states: Mutex<BTreeMap<u64, Arc<State>>>,
}

impl Open {
    /// Asks the connection to end that has had nothing to do for longest, one that never asked for anything before others.
    fn close_idlest(&self) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = states.iter().filter(|(_, state)| state.is_idle());
        let idlest = idle.max_by_key(|(_, state)| (!state.asked.load(Ordering::Acquire), state.quiet())).map(|(id, _)| *id);
        // It is asked once.
        if let Some(state) = idlest.and_then(|id| states.remove(&id)) {
            state.close.notify_one();
        }
    }
}

/// Answers connections until `stop` is done; then lets running answers end, for `grace` at most. Headers are waited for as long
/// as `headers` says.
pub(super) async fn answer(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
    grace: Duration,
    headers: Duration,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (slots, open) = (Arc::new(Semaphore::new(limit())), Arc::new(Open::default()));
    let (stopping, stopped) = watch::channel(false);
    let service = TowerToHyperService::new(router);
    let mut tasks = JoinSet::new();
    let mut stop = pin!(stop);
    for id in 0u64.. {
        let next = next(&listener, &slots, &open);
        let (stream, slot) = tokio::select! {
            () = &mut stop => break,
            next = next => next,
        };
        // Those that have ended are not kept.
        while tasks.try_join_next().is_some() {}
        let state = Arc::new(State {
            answers: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            sending: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
            close: Notify::new(),
        });
        open.states.lock().unwrap_or_else(PoisonError::into_inner).insert(id, state.clone());
        let (service, open, stopped) = (service.clone(), open.clone(), stopped.clone());
        tasks.spawn(async move {
            connection(stream, service, &state, stopped, headers).await;
            open.states.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            drop(slot);
        });
    }
    drop(listener);
    // Receivers that are gone have ended by themselves.
    let _ = stopping.send(true);
    let rest = async { while tasks.join_next().await.is_some() {} };
    // Connections that have not ended by then are dropped.
    let _ = tokio::time::timeout(grace, rest).await;
    Ok(())
}

/// The next connection, and its place among those that are open.
async fn next(
    listener: &tokio::net::TcpListener,
    slots: &Arc<Semaphore>,
    open: &Open,
) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
    let stream = loop {
        match listener.accept().await {
            Ok((stream, _)) => break stream,
            // The client went away; or there is no file left, which passes.
            Err(e) if [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset].contains(&e.kind()) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    // Without it small answers wait for the acknowledgement of those before; a refusal costs only that time.
    let _ = stream.set_nodelay(true);
    loop {
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            return (stream, slot);
        }
        open.close_idlest();
        let wait = tokio::time::timeout(Duration::from_millis(50), slots.clone().acquire_owned());
        if let Ok(Ok(slot)) = wait.await {
            return (stream, slot);
        }
    }
}

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    state: &Arc<State>,
    mut stopped: watch::Receiver<bool>,
    headers: Duration,
) {
    let answer = service_fn(|request: Request<Incoming>| {
        state.asked.store(true, Ordering::Release);
        let under_way = UnderWay::new(state.clone());
        let response = service.call(request);
        async move {
            let response: Response<Body> = response.await?;
            Ok::<_, std::convert::Infallible>(response.map(|body| Answer { body, under_way }))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(headers);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let mut tick = tokio::time::interval(TICK);
    let mut ending = false;
    loop {
        tokio::select! {
            // Whatever ended it, the client's doing or ours, there is nobody to tell.
            _ = serving.as_mut() => return,
            () = state.close.notified(), if !ending => {
                serving.as_mut().graceful_shutdown();
                // Answers that are under way after all have their time; silence has none.
                let _ = tokio::time::timeout(FAREWELL, serving.as_mut()).await;
                if state.is_idle() {
                    return;
                }
                ending = true;
            }
            _ = stopped.changed(), if !ending => {
                if !state.asked.load(Ordering::Acquire) {
                    return;
                }
                serving.as_mut().graceful_shutdown();
                ending = true;
            }
            _ = tick.tick() => {
                if !state.is_idle() && state.quiet() > STALLED && state.sending.load(Ordering::Acquire) {
                    return;
                }
            }
        }
    }
}

/// Counts an answer from its request to its last byte.
struct UnderWay(Arc<State>);

impl UnderWay {
    fn new(state: Arc<State>) -> Self {
        state.answers.fetch_add(1, Ordering::AcqRel);
        state.touch();
        Self(state)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answers.fetch_sub(1, Ordering::AcqRel);
        self.0.sending.store(false, Ordering::Release);
        self.0.touch();
    }
}

/// An answer's body.
struct Answer {
    body: Body,
    under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // It is asked for more as the client takes what was there.
        self.under_way.0.sending.store(true, Ordering::Release);
        self.under_way.0.touch();
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// A server of one word that waits for headers as long as `headers` says, and what a client finds.
    fn served<T: Send + 'static>(headers: Duration, client: impl FnOnce(std::net::SocketAddr) -> T + Send + 'static) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let router = Router::new().route("/", axum::routing::get(async || "word"));
        runtime.block_on(async {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let client = std::thread::spawn(move || {
                let found = client(address);
                stop.send(()).unwrap();
                found
            });
            let stopped = async { stopped.await.unwrap_or(()) };
            answer(listener, router, stopped, Duration::from_millis(100), headers).await.unwrap();
            client.join().unwrap()
        })
    }

    fn connect(address: std::net::SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    #[test]
    fn headers_that_do_not_end_end_the_connection() {
        let rest = served(Duration::from_millis(200), |address| {
            ["", "GET / HTTP/1.1\r\nhost: localhost\r\nx: "].map(|beginning| {
                let mut stream = connect(address);
                stream.write_all(beginning.as_bytes()).unwrap();
                let mut rest = Vec::new();
                // A reset is an end too.
                let _ = stream.read_to_end(&mut rest);
                String::from_utf8(rest).unwrap()
            })
        });
        assert!(rest.iter().all(|text| !text.contains("word")), "{rest:?}");
    }

    #[test]
    fn the_server_ends_with_silent_connections_open() {
        let start = Instant::now();
        let _open = served(HEADERS, |address| (connect(address), connect(address)));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
