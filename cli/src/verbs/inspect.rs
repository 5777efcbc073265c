//! `haikuq inspect`: what is in a package or a checkpoint.

use crate::arguments::checkpoint::{CHECKPOINT_HELP, HubArgs};
use crate::output::Context;
use crate::output::table::{Table, shape};
use crate::output::units::{counted, human_bytes, human_count};
use anyhow::Context as _;
use clap::Args;
use haikuq::architecture::Decoder;
use haikuq::tokenizer::Findings;
use haikuq_format::DecoderSpec;
use haikuq_format::manifest::{MANIFEST_FILE, Manifest};
use haikuq_format::spec::{Attention, Mlp, NormKind};
use haikuq_runtime::package::{FolderSource, Package, PackageError};
use haikuq_runtime::text::EndToken;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what is in a package or a checkpoint: decoder, tensors, files, where it came from
#[derive(Args, Debug)]
#[command(after_help = CHECKPOINT_HELP)]
pub struct InspectArgs {
    /// Folder of a package or a checkpoint, a .gguf file, or a model on the hub (org/name)
    path: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
    /// Print everything as JSON: a package's manifest, or a checkpoint's spec and tensors
    #[arg(long)]
    json: bool,
}

/// Describes the folder; no weights are read.
pub fn run(args: InspectArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let failed = || format!("cannot inspect {}", args.path.display());
    let path = args.hub.locate(&args.path, context)?.path;
    if path.join(MANIFEST_FILE).is_file() {
        let package = pollster::block_on(Package::open(FolderSource::new(&path))).with_context(failed)?;
        match args.json {
            true => context.print_json(package.manifest())?,
            false => {
                let ends = pollster::block_on(package_ends(&package)).unwrap_or_else(|error| error.to_string());
                context.print(package_text(package.manifest(), &ends))?;
            }
        }
    } else {
        let checkpoint = args.hub.open(&path).with_context(failed)?;
        let decoder = Decoder::from_checkpoint(checkpoint).with_context(failed)?;
        context.warn(decoder.notes());
        let texts = Findings::of(decoder.checkpoint(), &decoder.spec)
            .unwrap_or_else(|error| Findings { warnings: vec![error.to_string()], ..Findings::default() });
        context.warn(&texts.warnings);
        match args.json {
            true => context.print_json(&checkpoint_json(&decoder, &texts))?,
            false => context.print(checkpoint_text(&decoder, &texts))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The decoder in a few lines.
fn spec_text(spec: &DecoderSpec) -> String {
    let weights: usize = spec.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum();
    let norm = if spec.norm.kind == NormKind::Rms { "RMS" } else { "layer" };
    let head = if spec.tied_head { "tied" } else { "untied" };
    let attention = |size: fn(&Attention) -> usize| span(spec.attentions().map(size));
    let mut activations: Vec<String> = spec.mlps().map(activation_text).collect();
    activations.sort();
    activations.dedup();
    format!(
        "decoder   {} weights, {} layers of width {} ({} inside), vocabulary {}, {head} head\n\
         attention {} query and {} key/value heads of {}, {} positions\n\
         norm      {norm}, epsilon {:e}; activation {}",
        human_count(weights as u64),
        spec.num_layers(),
        spec.hidden_size,
        span(spec.mlps().map(|m| m.intermediate_size)),
        spec.vocab_size,
        attention(|a| a.num_heads),
        attention(|a| a.num_kv_heads),
        attention(|a| a.head_dim),
        spec.max_context,
        spec.norm.epsilon,
        activations.join(" and "),
    )
}

/// A size that layers have, or the least and the largest.
fn span(sizes: impl Iterator<Item = usize> + Clone) -> String {
    match (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0)) {
        (least, most) if least == most => most.to_string(),
        (least, most) => format!("{least} to {most}"),
    }
}

fn activation_text(mlp: &Mlp) -> String {
    format!("{:?}{}", mlp.activation, if mlp.gated { ", gated" } else { "" })
}

/// Which tokens end a text of a package.
async fn package_ends(package: &Package) -> Result<String, PackageError> {
    let tokenizer = package.tokenizer().await.ok();
    let ends = package.generation_defaults().await?.end_tokens(&package.manifest().spec, tokenizer.as_ref());
    let spelled = |end: EndToken| {
        let token = tokenizer.as_ref().and_then(|t| t.token(end.id));
        (end, token)
    };
    Ok(Findings { end_tokens: ends.into_iter().map(spelled).collect(), warnings: Vec::new() }.text())
}

fn package_text(manifest: &Manifest, ends: &str) -> String {
    let mut tensors = Table::new(&["tensor", ">shape", "scheme", ">bits", ">bytes", ">chunks", ">error"]);
    for t in &manifest.tensors {
        let error = t.relative_error.map_or_else(|| "?".into(), |e| format!("{:.2} %", e * 100.0));
        let (bits, chunks) = (format!("{:.3}", t.scheme.bits_per_weight()), t.chunks.len().to_string());
        tensors.row([t.name.clone(), shape(&t.shape), t.scheme.to_string(), bits, t.bytes().to_string(), chunks, error]);
    }
    let mut files = Table::new(&["file", ">bytes", "sha256"]);
    for f in manifest.shards.iter().chain(&manifest.files) {
        files.row([f.name.clone(), f.bytes.to_string(), f.sha256.clone()]);
    }
    let mut sources = Table::new(&["source", ">bytes", "sha256"]);
    for f in &manifest.provenance.source {
        sources.row([f.name.clone(), f.bytes.to_string(), f.sha256.clone()]);
    }
    let active = match manifest.spec.mlps().any(|m| m.experts.is_some()) {
        true => format!(", a token reads {}", human_bytes(manifest.active_bytes())),
        false => String::new(),
    };
    let hub = manifest.provenance.hub.as_ref();
    let hub = hub.map_or_else(String::new, |h| format!("from      {} on the hub, commit {}\n", h.repo, h.commit));
    format!(
        "package   format {}.{}, {} of weights in {}, {:.3} bits a weight{active}\n\
         made by   {}, recipe {}\n{hub}{}\nends      {ends}\n\n{tensors}\n\n{files}\n\n{sources}",
        manifest.version.major,
        manifest.version.minor,
        human_bytes(manifest.weight_bytes()),
        counted(manifest.shards.len(), "shard"),
        manifest.bits_per_weight(),
        manifest.provenance.tool,
        manifest.provenance.recipe,
        spec_text(&manifest.spec),
    )
}

/// Canonical tensors with the names and formats of what they are made of.
fn sources(decoder: &Decoder, name: &str) -> Vec<(String, String)> {
    let names = decoder.sources(name).map(|s| s.tensors()).unwrap_or_default();
    let dtype = |name: &str| decoder.checkpoint().describe(name).map_or("?", |d| d.1).to_lowercase();
    names.into_iter().map(|n| (n.to_string(), dtype(n))).collect()
}

fn checkpoint_text(decoder: &Decoder, texts: &Findings) -> String {
    let mut tensors = Table::new(&["tensor", ">shape", "dtype", "made of"]);
    for t in decoder.spec.tensors() {
        let parts = sources(decoder, &t.name);
        let dtype = parts.first().map(|p| p.1.clone()).unwrap_or_default();
        let names = parts.into_iter().map(|p| p.0).collect::<Vec<_>>().join(", ");
        tensors.row([t.name, shape(&t.shape), dtype, names]);
    }
    format!("checkpoint\n{}\nends      {}\n\n{tensors}", spec_text(&decoder.spec), texts.text())
}

fn checkpoint_json(decoder: &Decoder, texts: &Findings) -> Value {
    let tensor = |t: haikuq_format::spec::TensorSpec| {
        let parts: Vec<Value> =
            sources(decoder, &t.name).into_iter().map(|(name, dtype)| json!({"name": name, "dtype": dtype})).collect();
        json!({"name": t.name, "class": t.class, "shape": t.shape, "sources": parts})
    };
    let files = decoder.checkpoint().source_files();
    let names = files.iter().map(|f| f.file_name().unwrap_or_default().to_string_lossy().into_owned());
    json!({
        "schema": "haikuq.checkpoint/1",
        "spec": decoder.spec,
        "tensors": decoder.spec.tensors().into_iter().map(tensor).collect::<Vec<_>>(),
        "files": names.collect::<Vec<_>>(),
        "end_tokens": texts.json(),
    })
}
