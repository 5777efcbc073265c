//! `haikuq serve`: the chat app, the benchmark page and packages on a local web server.

use crate::arguments::generation::LoadArgs;
use crate::output::Context;
use crate::output::units::human_bytes;
use anyhow::Context as _;
use clap::Args;
use haikuq::runner::{Runner, RunnerOptions};
use haikuq_runtime::decoder::MAX_BATCH;
use haikuq_serve::api::{self, Engine, LoadDecoder};
use haikuq_serve::{Origin, PageLoad, ServeOptions, ServedPackage, Server, Site};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Serve the chat app and packages to a browser on this machine
///
/// Listens on 127.0.0.1 and opens the page. Packages are only read: a browser gets the files that their manifests list
/// and no others. Ctrl-C ends the server.
///
/// With --api the packages also run here, on this machine's GPU, and answer OpenAI's API: set a client's base_url to
/// http://127.0.0.1:4173/v1, any key, and a package's name as model.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Folders of the packages; a folder's name is its package's name
    #[arg(value_name = "PACKAGE", required = true)]
    packages: Vec<PathBuf>,
    /// Run the packages on this machine's GPU and answer OpenAI's API at /v1; opens no page
    #[arg(long)]
    api: bool,
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
    /// Print where the server is as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// `serve --json`; documented in docs/schemas/serve.md.
#[derive(Serialize)]
struct ServeJson<'a> {
    schema: &'static str,
    url: &'a str,
    /// Base URL of OpenAI's API, with --api.
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<String>,
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
    let site = match Site::find(args.site.as_deref()) {
        // The API needs no pages.
        Err(_) if args.api && args.site.is_none() => Site::None,
        site => site?,
    };
    let mut options = ServeOptions::new(site);
    (options.host, options.port) = (args.host, args.port);
    options.packages = packages;
    options.load = PageLoad::new(args.load.compute.numerics.name());
    options.connect = args.connect;
    let mut server = Server::bind(options)?;
    if args.api {
        let engines =
            args.packages.iter().zip(&summaries).map(|(folder, package)| engine(folder, &package.name, &args.load, context));
        let routes = api::router(engines.collect::<anyhow::Result<Vec<_>>>()?);
        server = server.extend(|router| router.merge(routes));
    }
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
    let api = args.api.then(|| format!("{url}v1"));
    if let Some(api) = &api {
        context.note(format_args!("OpenAI's API at {api}"));
    }
    context.note(format_args!("serving at {url} (Ctrl-C ends)"));
    if args.json {
        let packages = summaries.into_iter().map(|p| PackageJson { name: p.name, url: format!("{url}{}", p.url) });
        let line = ServeJson { schema: "haikuq.serve/1", url: &url, api, packages: packages.collect() };
        context.print(serde_json::to_string(&line)?)?;
    }
    if !args.no_open
        && !args.api
        && let Err(error) = open::that_detached(&url)
    {
        context.note(format_args!("no browser could be opened ({error}): open {url} in one"));
    }
    server.run(interrupted()).context("the server failed")?;
    Ok(ExitCode::SUCCESS)
}

/// Loads a package for the API.
fn engine(folder: &Path, name: &str, load: &LoadArgs, context: &Context) -> anyhow::Result<Engine> {
    let options: RunnerOptions = load.options(context.adapter.clone(), MAX_BATCH);
    let runner = Runner::load(folder, &options, &mut |_| {})?;
    context.warn(&runner.notes);
    let (tokenizer, defaults) = (runner.tokenizer()?, runner.generation_defaults()?);
    let (folder, mut loaded) = (folder.to_path_buf(), Some(runner.decoder));
    let load: LoadDecoder = Box::new(move || match loaded.take() {
        Some(decoder) => Ok(decoder),
        None => Ok(Runner::load(&folder, &options, &mut |_| {})?.decoder),
    });
    Engine::start(name.into(), tokenizer, defaults, load).map_err(|error| anyhow::anyhow!("{error}"))
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
