//! With the feature `site`, makes sure that there is a site to embed, and embeds it again when it changes.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_SITE").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=../web/site");
    if !Path::new("../web/site/index.html").is_file() {
        println!("cargo::error=the feature `site` embeds web/site, which is not built: run `make web` first");
    }
}
