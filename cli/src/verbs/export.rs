//! `haikuq export`: a package as the files of other programs.

use super::convert::ConvertProgress;
use crate::model::{read_manifest, read_report};
use crate::output::Context;
use crate::output::units::{counted, human_bytes};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use haikuq::export::{About, Export, Format, GgufType, HfDtype, OnnxFloats, Origin, OriginFormat};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// The first lines of the help.
const EXAMPLES: &str = "\
haikuq export smollm2.q4 --format hf --out smollm2-hf               for transformers and its kin
haikuq export phi.q4 --format hf --checkpoint phi-2 --out phi-hf    by the checkpoint's config
haikuq export smollm2.uniform --format compressed-tensors --out ct  for vLLM, the very codes
haikuq export smollm2.uniform --format gguf --out gguf              for llama.cpp, the very numbers
haikuq export smollm2.q4 --format gguf --type q4_k --checkpoint SmolLM2-135M --out gguf
                                                                    the original's, rounded anew
haikuq export smollm2.uniform --format onnx --out onnx              for transformers.js and GenAI
haikuq export smollm2.q4 --format sbom --license mit --out bom.json
haikuq export smollm2.q4 --format oci --out layout                  for oras, without a copy";

/// Write a package as the files of other programs
#[derive(Args, Debug)]
#[command(before_help = EXAMPLES)]
pub struct ExportArgs {
    /// Folder of the package
    package: PathBuf,
    /// Weights (hf, compressed-tensors, gguf, onnx), or what a package is made of (sbom, statement, oci)
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: FormatArg,
    /// Folder, or file of sbom and statement; it gets its name when complete
    #[arg(short, long, value_name = "PATH")]
    out: PathBuf,
    /// Numbers of hf, scales of compressed-tensors: f16 (default), bf16, f32; activations of onnx: f32 (default), f16
    #[arg(long, value_enum, value_name = "DTYPE")]
    dtype: Option<DtypeArg>,
    /// Matrices of gguf: f32, f16, q8_0, q4_0, q4_1, q5_0, q5_1, q3_k, q4_k, q5_k, q6_k [default: what holds the package's numbers]
    #[arg(long = "type", value_name = "TYPE")]
    gguf_type: Option<GgufType>,
    /// The checkpoint that the package was made of: hf takes its config.json, gguf its weights, which are then rounded once, onnx both,
    /// where a package has learned tables or offsets, by q4-uniform
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Licence that sbom and oci name (apache-2.0, mit, …)
    #[arg(long, alias = "licence", value_name = "ID")]
    license: Option<String>,
    /// Checkpoint on the hub that sbom and oci name
    #[arg(long, value_name = "ORG/NAME")]
    base_model: Option<String>,
    /// Report of `haikuq validate --report`, for sbom
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum FormatArg {
    Hf,
    CompressedTensors,
    Gguf,
    Onnx,
    Sbom,
    Statement,
    Oci,
}

impl FormatArg {
    /// The formats that list files.
    fn origin(self) -> Option<OriginFormat> {
        match self {
            Self::Hf | Self::CompressedTensors | Self::Gguf | Self::Onnx => None,
            Self::Sbom => Some(OriginFormat::Sbom),
            Self::Statement => Some(OriginFormat::Statement),
            Self::Oci => Some(OriginFormat::Oci),
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum DtypeArg {
    F16,
    Bf16,
    F32,
}

impl DtypeArg {
    fn dtype(self) -> HfDtype {
        match self {
            Self::F16 => HfDtype::F16,
            Self::Bf16 => HfDtype::Bf16,
            Self::F32 => HfDtype::F32,
        }
    }
}

/// Writes the folder.
pub fn run(args: ExportArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if let Some(format) = args.format.origin() {
        return origin(&args, format, context);
    }
    if args.license.is_some() || args.base_model.is_some() || args.report.is_some() {
        anyhow::bail!("--license, --base-model and --report are for --format sbom and oci");
    }
    let format = match (args.format, args.dtype, args.gguf_type) {
        (FormatArg::Hf, dtype, None) => Format::Hf(dtype.map_or(HfDtype::default(), DtypeArg::dtype)),
        (FormatArg::CompressedTensors, dtype, None) => {
            Format::CompressedTensors(dtype.map_or(HfDtype::default(), DtypeArg::dtype))
        }
        (FormatArg::Gguf, None, wanted) => Format::Gguf(wanted),
        (FormatArg::Onnx, None | Some(DtypeArg::F32), None) => Format::Onnx(OnnxFloats::F32),
        (FormatArg::Onnx, Some(DtypeArg::F16), None) => Format::Onnx(OnnxFloats::F16),
        (FormatArg::Onnx, Some(DtypeArg::Bf16), None) => {
            anyhow::bail!("--format onnx computes in f32 or f16: no operator for quantized matrices has bf16 on processors")
        }
        (FormatArg::Onnx, ..) => anyhow::bail!("--type is for --format gguf; an onnx export has the package's own codes"),
        (FormatArg::CompressedTensors, ..) => {
            anyhow::bail!("--type is for --format gguf; compressed-tensors has the package's own codes")
        }
        (FormatArg::Hf, ..) => anyhow::bail!("--type is for --format gguf; the numbers of hf are chosen by --dtype"),
        _ => anyhow::bail!("--dtype is for --format hf and onnx; the matrices of gguf are chosen by --type"),
    };
    let export = Export::new(&args.package, format).checkpoint(args.checkpoint);
    let progress = ConvertProgress::new(context, false);
    let result = export.run_observed(&args.out, &|event| progress.take(event));
    drop(progress.finish());
    let written = result.with_context(|| format!("cannot export {}", args.package.display()))?;
    let bytes: u64 = written.files.iter().map(|(_, bytes)| bytes).sum();
    if args.json {
        let files: Vec<_> = written.files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
        context.print_json(&json!({
            "schema": "haikuq.export/1",
            "out": args.out,
            "architecture": written.architecture,
            "files": files,
            "bytes": bytes,
            "relative_error": written.relative_error,
            "recipe": written.recipe,
        }))?;
    } else {
        if let Some(recipe) = written.recipe {
            context.print(format_args!(
                "ONNX Runtime has no operator for the package's learned tables or offsets: the checkpoint was quantized again by {recipe}"
            ))?;
        }
        context.print(format_args!(
            "{}: {}, {} files, {}; rounding to it changes weights by {:.3} %",
            args.out.display(),
            written.architecture,
            written.files.len(),
            human_bytes(bytes),
            100.0 * written.relative_error
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a list of the package's files, or a layout of them.
fn origin(args: &ExportArgs, format: OriginFormat, context: &Context) -> anyhow::Result<ExitCode> {
    if args.dtype.is_some() || args.gguf_type.is_some() || args.checkpoint.is_some() {
        anyhow::bail!("--dtype, --type and --checkpoint are for --format hf and gguf, which write weights anew");
    }
    let fail = || format!("cannot export {}", args.package.display());
    let report = match &args.report {
        Some(path) => Some(read_report(path, &read_manifest(&args.package)?)?),
        None => None,
    };
    let about = About { licence: args.license.clone(), base_model: args.base_model.clone(), report };
    let files = Origin::open(&args.package, about).and_then(|o| o.write(format, &args.out)).with_context(fail)?;
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    if args.json {
        let files: Vec<_> = files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
        context.print_json(&json!({
            "schema": "haikuq.export/1",
            "out": args.out,
            "architecture": null,
            "files": files,
            "bytes": bytes,
            "relative_error": null,
        }))?;
    } else {
        let written = counted(files.len(), "file");
        context.print(format_args!("{}: {written}, {}", args.out.display(), human_bytes(bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}
