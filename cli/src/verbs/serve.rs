//! `haikuq serve`: the chat app, the benchmark page and packages on a local web server.

use crate::arguments::generation::NumericsArg;
use crate::output::Context;
use crate::output::units::human_bytes;
use anyhow::Context as _;
use clap::Args;
use haikuq_serve::{Origin, PageLoad, ServeOptions, ServedPackage, Server, Site};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

/// Serve the chat app and packages to a browser on this machine
///
/// Listens on 127.0.0.1 and opens the page. Packages are only read: a browser gets the files that their manifests list
/// and no others. Ctrl-C ends the server.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Folders of the packages; a folder's name is its package's name
    #[arg(value_name = "PACKAGE", required = true)]
    packages: Vec<PathBuf>,
    /// Port to listen at; 0 is any that is free [default: 4173 or the next free one]
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Address to listen at; browsers offer WebGPU to http pages from this machine alone
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1", value_parser = host)]
    host: IpAddr,
    /// Do not open the page
    #[arg(long)]
    no_open: bool,
    /// Folder of the built pages [default: those that come with the program]
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// Another origin that the pages may talk to, such as a proxy to a cloud model (may be given several times)
    ///
    /// For pages given with --site: it adds to the policy that the server sends. The pages of this project carry a policy
    /// of their own as well, and both hold; for another origin they also have to be built with HAIKUQ_CONNECT=ORIGIN.
    #[arg(long, value_name = "ORIGIN")]
    connect: Vec<Origin>,
    /// Exact or fast arithmetic on the browser's GPU, where a page is not told otherwise (packages in f32 are always exact)
    #[arg(long, value_enum, default_value_t, value_name = "NUMERICS")]
    numerics: NumericsArg,
    /// Print where the server is as one line of JSON
    #[arg(long)]
    json: bool,
}

/// `serve --json`; documented in docs/schemas/serve.md.
#[derive(Serialize)]
struct ServeJson<'a> {
    schema: &'static str,
    url: &'a str,
    packages: Vec<PackageJson>,
}

#[derive(Serialize)]
struct PackageJson {
    name: String,
    url: String,
}

/// Serves until Ctrl-C.
pub fn run(args: ServeArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let packages = args.packages.iter().map(|folder| ServedPackage::open(folder)).collect::<Result<Vec<_>, _>>()?;
    let summaries: Vec<_> = packages.iter().map(ServedPackage::summary).collect();
    let site = Site::find(args.site.as_deref())?;
    let mut options = ServeOptions::new(site);
    (options.host, options.port) = (args.host, args.port);
    options.packages = packages;
    options.load = PageLoad::new(args.numerics.name());
    options.connect = args.connect;
    let server = Server::bind(options)?;
    let url = server.url();

    for package in &summaries {
        let size = human_bytes(package.weight_bytes);
        context.note(format_args!("{}: {}, {size} at {url}{}", package.name, package.recipe, package.url));
    }
    if !server.is_local() {
        context.note(format_args!(
            "warning: listening at {}, where others can reach the packages; browsers offer WebGPU only to pages from https or \
             localhost",
            args.host
        ));
    }
    context.note(format_args!("serving at {url} (Ctrl-C ends)"));
    if args.json {
        let packages = summaries.into_iter().map(|p| PackageJson { name: p.name, url: format!("{url}{}", p.url) });
        let line = ServeJson { schema: "haikuq.serve/1", url: &url, packages: packages.collect() };
        context.print(serde_json::to_string(&line)?)?;
    }
    if !args.no_open
        && let Err(error) = open::that_detached(&url)
    {
        context.note(format_args!("no browser could be opened ({error}): open {url} in one"));
    }
    server.run(interrupted()).context("the server failed")?;
    Ok(ExitCode::SUCCESS)
}

/// Done at Ctrl-C.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Nobody watches: the system's own way, which ends the program, is as good.
        std::future::pending::<()>().await;
    }
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        address => address.parse().map_err(|_| "not an IP address".into()),
    }
}
