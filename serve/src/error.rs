//! What keeps a server from starting.

use haikuq_format::manifest::{MANIFEST_FILE, ManifestError};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What keeps a server from starting, or a package from being served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder is no package.
    #[error("{} is no package: it has no {MANIFEST_FILE}", folder.display())]
    NoPackage {
        /// The folder.
        folder: PathBuf,
    },
    /// A manifest cannot be trusted.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A file is not as long as the manifest says.
    #[error("{} has {have} bytes, but {MANIFEST_FILE} says {need}: convert the package again", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        have: u64,
        /// The manifest's.
        need: u64,
    },
    /// The folder's name, which is the package's name in URLs, is missing or no UTF-8.
    #[error("{} has no name that a URL could show: serve it from a folder with a name in UTF-8", folder.display())]
    Name {
        /// The folder.
        folder: PathBuf,
    },
    /// Two packages' folders have one name.
    #[error("{} and {} are both called {name:?}, and a URL can name only one: rename a folder", first.display(), second.display())]
    Duplicate {
        /// The name.
        name: String,
        /// The first one's folder.
        first: PathBuf,
        /// The second one's.
        second: PathBuf,
    },
    /// A site cannot be written where it was asked for.
    #[error("{} cannot be written: {why}", folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
        /// What is there, and the way out.
        why: &'static str,
    },
    /// Two files of a site would have one path.
    #[error("the pages and the packages both have a file {}: rename the package's folder", path.display())]
    Twice {
        /// Within the site.
        path: PathBuf,
    },
    /// There are no pages to serve.
    #[error("there is no site at {}: build it with `make web`, or name its folder with --site", folder.display())]
    NoSite {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}
