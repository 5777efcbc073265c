//! `haikuq validate --browser`: opening the page that does the work.

use crate::arguments::generation::NumericsArg;
use crate::browser::{BrowserModel, BrowserOptions};
use crate::output::Context;
use anyhow::Context as _;
use clap::Args;
use haikuq_files::write_atomically;
use haikuq_runtime::decoder::CachePrecision;
use haikuq_serve::Site;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a browser runs the package, and how it is found.
#[derive(Args, Debug)]
#[command(next_help_heading = "In a browser")]
pub struct BrowserArgs {
    /// Run the package in a browser: the default one, or PROGRAM
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, require_equals = true, conflicts_with = "reference")]
    browser: Option<Option<String>>,
    /// Open no browser: somebody else opens the page that is printed
    #[arg(long, requires = "browser")]
    no_open: bool,
    /// Write the page's URL to this file, for scripts that open it
    #[arg(long, value_name = "FILE", requires = "browser")]
    url_file: Option<PathBuf>,
    /// Port to listen at; 0 is any that is free [default: 4173 or the next free one]
    #[arg(long, value_name = "N", requires = "browser")]
    port: Option<u16>,
    /// Folder of the built pages [default: those that come with the program]
    #[arg(long, value_name = "DIR", requires = "browser")]
    site: Option<PathBuf>,
    /// A page that sends nothing for this long is gone
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    page_timeout: u64,
}

impl BrowserArgs {
    /// The package in a browser, if that was asked for. Returns as soon as the page was asked to open.
    ///
    /// # Errors
    /// If the page or the package cannot be served. A browser that does not open is no error: somebody may open one.
    pub fn start(
        &self,
        package: &Path,
        cache: CachePrecision,
        numerics: NumericsArg,
        context: &Context,
    ) -> anyhow::Result<Option<BrowserModel>> {
        let Some(program) = &self.browser else { return Ok(None) };
        let model = BrowserModel::start(BrowserOptions {
            package: package.into(),
            site: Site::find(self.site.as_deref())?,
            port: self.port,
            cache,
            numerics: numerics.name(),
            page_timeout: Duration::from_secs(self.page_timeout),
        })?;
        let url = model.url();
        context.note(format_args!("open {url}"));
        if let Some(file) = &self.url_file {
            write_atomically(file, format!("{url}\n").as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if !self.no_open {
            let opened = match program {
                Some(program) => open::with_detached(url, program),
                None => open::that_detached(url),
            };
            if let Err(error) = opened {
                context.note(format_args!("no browser could be opened ({error}): open the page above in one"));
            }
        }
        Ok(Some(model))
    }
}
