//! A local web server for the site (chat app, benchmark and validation pages with the runtime) and for packages.
//!
//! ```no_run
//! use haikuq_serve::{ServeOptions, ServedPackage, Server, Site};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut options = ServeOptions::new(Site::find(None)?);
//! options.packages.push(ServedPackage::open("haiku-7m.q4".as_ref())?);
//! let server = Server::bind(options)?;
//! println!("{}", server.url());
//! server.run(std::future::pending())?;
//! # Ok(())
//! # }
//! ```
//!
//! | path | what | caching |
//! | --- | --- | --- |
//! | `/`, `/bench/`, `/validate/` | the [`site`] | `no-cache`; files under an `assets/` folder, whose names hold a hash, for good |
//! | `/packages/index.json` | the packages, see [`packages`] | `no-cache` |
//! | `/packages/NAME/haikuq.json` | a package's manifest | `no-cache` |
//! | `/packages/NAME/FILE` | a file that the manifest lists, and no other | for good where `?sha256=` is the manifest's, else `no-cache` |
//!
//! Conditional requests and content types are tower-http's, as are ranges but for what `ranges` adds. [`policy`] has what
//! every answer has besides, and `connections` the rules for connections.

pub mod api;
mod connections;
#[cfg(feature = "site")]
mod embedded;
mod error;
pub mod export;
pub mod packages;
pub mod policy;
mod ranges;
pub mod site;

pub use error::ServeError;
pub use packages::{PageLoad, ServedPackage};
pub use policy::Origin;
pub use site::Site;

use axum::Router;
use packages::Packages;
use policy::Policy;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

/// Port unless another one is asked for; where it is taken, one of the next [`PORTS_TRIED`] that is free.
pub const DEFAULT_PORT: u16 = 4173;

/// Ports tried from [`DEFAULT_PORT`] on.
pub const PORTS_TRIED: u16 = 100;

/// Downloads that run when the server is told to stop get this long to end.
const GRACE: Duration = Duration::from_secs(1);

/// What to serve, and where.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Address to listen at.
    pub host: IpAddr,
    /// Port to listen at; 0 is any that is free, none is [`DEFAULT_PORT`] or the next free one.
    pub port: Option<u16>,
    /// The pages.
    pub site: Site,
    /// The packages; each name once.
    pub packages: Vec<ServedPackage>,
    /// How pages load a package unless they are told otherwise.
    pub load: PageLoad,
    /// Hosts that the pages may talk to besides the server itself.
    pub connect: Vec<Origin>,
}

impl ServeOptions {
    /// `site` without packages, for this machine alone.
    pub fn new(site: Site) -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: None,
            site,
            packages: Vec::new(),
            load: PageLoad::default(),
            connect: Vec::new(),
        }
    }
}

/// A server that listens already: connections wait until [`Server::run`] answers them.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    policy: Policy,
}

impl Server {
    /// Listens at the address that `options` name.
    ///
    /// # Errors
    /// If two packages have one name, or the port is taken or not allowed.
    pub fn bind(options: ServeOptions) -> Result<Self, ServeError> {
        let packages = Packages::new(options.packages, options.load)?;
        let listener = listen(options.host, options.port)?;
        let failed = |source| ServeError::Listen { address: SocketAddr::new(options.host, options.port.unwrap_or(0)), source };
        listener.set_nonblocking(true).map_err(failed)?;
        connections::lengthen_backlog(&listener);
        let address = listener.local_addr().map_err(failed)?;
        let router = packages::router(Arc::new(packages)).merge(options.site.router());
        Ok(Self { listener, address, router, policy: Policy::new(address.ip(), &options.connect) })
    }

    /// Where a browser on this machine finds the server: `http://127.0.0.1:4173/`.
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}/", SocketAddr::new(ip, self.address.port()))
    }

    /// Whether only this machine can reach the server.
    pub fn is_local(&self) -> bool {
        self.address.ip().is_loopback()
    }

    /// Adds routes or layers within the [`policy`].
    #[must_use]
    pub fn extend(self, change: impl FnOnce(Router) -> Router) -> Self {
        Self { router: change(self.router), ..self }
    }

    /// Answers requests until `stop` is done; then lets running downloads end, for a second at most.
    ///
    /// # Errors
    /// If the system refuses what a server needs.
    pub fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        // Answers are made on other threads than this one, which is told to stop.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let result = runtime.block_on(self.answer(stop));
        runtime.shutdown_background();
        result
    }

    /// [`Server::run`] on a runtime of the caller's.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub async fn answer(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let router = policy::apply(self.router, self.policy);
        connections::answer(self.listener, router, stop, GRACE, connections::HEADERS).await
    }
}

fn listen(host: IpAddr, port: Option<u16>) -> Result<TcpListener, ServeError> {
    let bind = |port| {
        let address = SocketAddr::new(host, port);
        TcpListener::bind(address).map_err(|source| ServeError::Listen { address, source })
    };
    if let Some(port) = port {
        return bind(port);
    }
    let mut last = bind(DEFAULT_PORT);
    for port in DEFAULT_PORT + 1..DEFAULT_PORT + PORTS_TRIED {
        match last {
            Err(ServeError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => last = bind(port),
            other => return other,
        }
    }
    last
}
