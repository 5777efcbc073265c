//! Arguments that `run` and `chat` share, and from them what is asked of a generation.

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use haikuq::kernel_times::KernelTimes;
use haikuq::runner::{Runner, RunnerOptions};
use haikuq_runtime::decoder::{CachePrecision, Measure};
use haikuq_runtime::generate::GenerateOptions;
use haikuq_runtime::sampling::SamplingOptions;
use haikuq_runtime::text::{ChatOptions, SamplingOverrides, Tokenizer, read_json};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Largest file of tools that is read.
const MAX_TOOLS_BYTES: u64 = 16 << 20;

/// Precision of the key/value cache.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum CacheArg {
    /// f16
    #[default]
    Auto,
    /// 16-bit floats
    F16,
    /// 32-bit floats
    F32,
}

impl From<CacheArg> for CachePrecision {
    fn from(arg: CacheArg) -> Self {
        match arg {
            CacheArg::Auto => Self::Auto,
            CacheArg::F16 => Self::F16,
            CacheArg::F32 => Self::F32,
        }
    }
}

/// How numbers are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NumericsArg {
    /// fast
    #[default]
    Auto,
    /// f32 activations; nothing but its own sequence decides a token's bits
    Exact,
    /// 8-bit or f16 activations and matrix units where the GPU has them
    Fast,
}

impl NumericsArg {
    /// The name that pages know it by, too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }
}

/// How kernels are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KernelsArg {
    /// measured on this GPU at its first load (0.3 s at most), or else the table's
    #[default]
    Auto,
    /// by the runtime's table alone
    Table,
}

impl KernelsArg {
    /// Sets what was asked for.
    pub fn apply(self, options: &mut RunnerOptions) {
        match self {
            Self::Auto => options.kernel_times = KernelTimes::in_user_cache(),
            Self::Table => options.decoder.measure = Measure::Never,
        }
    }
}

/// How the runtime computes.
#[derive(Args, Clone, Debug, Default)]
pub struct ComputeArgs {
    /// Exact or fast arithmetic on the GPU (packages in f32 are always exact)
    #[arg(long, value_enum, default_value_t, value_name = "NUMERICS", help_heading = "Loading")]
    pub numerics: NumericsArg,
    /// Choose among kernels by times measured on this GPU, which are kept, or by the table alone
    #[arg(long, value_enum, default_value_t, value_name = "CHOICE", help_heading = "Loading")]
    pub kernels: KernelsArg,
    /// Take this kernel for an operation wherever it works, such as project=matvec (may be given several times)
    #[arg(long = "pin", value_name = "OPERATION=KERNEL", help_heading = "Loading", value_parser = pin)]
    pub pins: Vec<(String, String)>,
    /// Choose kernels on a software adapter as on a GPU, to test these
    #[arg(long, hide = true)]
    pub software_as_hardware: bool,
}

impl ComputeArgs {
    /// Sets what was asked for.
    pub fn apply(&self, options: &mut RunnerOptions) {
        options.decoder.exact = self.numerics == NumericsArg::Exact;
        options.gpu.software_as_hardware = self.software_as_hardware;
        self.kernels.apply(options);
        options.decoder.pins = self.pins.iter().cloned().collect();
    }
}

/// `OPERATION=KERNEL`.
fn pin(argument: &str) -> Result<(String, String), String> {
    let (operation, kernel) = argument.split_once('=').ok_or("needs OPERATION=KERNEL")?;
    Ok((operation.into(), kernel.into()))
}

/// How the package is loaded.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// Precision of the key/value cache
    #[arg(long, value_enum, default_value_t, value_name = "PRECISION", help_heading = "Loading")]
    pub cache: CacheArg,
    /// Positions of a sequence at most (the model's own limit by default)
    #[arg(long, value_name = "N", help_heading = "Loading", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

impl LoadArgs {
    /// Options for a runner that serves up to `sequences` at once.
    pub fn options(&self, adapter: Option<String>, sequences: usize) -> RunnerOptions {
        let mut options = RunnerOptions::new(adapter, self.cache.into());
        options.decoder.max_context = self.context.map(|n| n as usize);
        options.decoder.max_sequences = sequences;
        self.compute.apply(&mut options);
        options
    }
}

/// How tokens are chosen and when the text ends. Options that are not given come from the model's generation_config.json.
/// Where it does not give them either, tokens are chosen greedily.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Tokens at most (as many as the context holds by default)
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Always the most probable token, whatever the model's defaults say
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    greedy: bool,
    /// Divides the logits; 0 is greedy
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Only the K most probable tokens; 0 is all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Only the most probable tokens that make up this share of the probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Only tokens of at least this share of the most probable one's probability
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Over 1 discourages tokens that have occurred
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f32>,
    /// Seed of the random choice; the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// End the text before this string (may be given several times)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the model's end-of-text token
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingArgs {
    /// From what was typed to what was meant, with the end tokens of the package and its `tokenizer`.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn resolve(&self, runner: &Runner, tokenizer: &Tokenizer) -> anyhow::Result<GenerateOptions> {
        let defaults = runner.generation_defaults()?;
        let mut options = GenerateOptions::default();
        options.sampling = if self.greedy {
            let mut greedy = SamplingOptions::greedy();
            greedy.repetition_penalty = self.repetition_penalty.unwrap_or(1.0);
            greedy.seed = self.seed;
            greedy
        } else {
            let mut overrides = SamplingOverrides::default();
            overrides.temperature = self.temperature;
            overrides.top_k = self.top_k;
            overrides.top_p = self.top_p;
            overrides.min_p = self.min_p;
            overrides.repetition_penalty = self.repetition_penalty;
            overrides.seed = self.seed;
            defaults.sampling_with(&overrides)?
        };
        options.sampling.validate()?;
        options.max_tokens = self.max_tokens;
        if !self.ignore_eos {
            options.stop_tokens = defaults.stop_tokens(runner.decoder.spec(), Some(tokenizer));
        }
        options.stop_strings = self.stop.clone();
        Ok(options)
    }
}

/// What the chat template is given beside the conversation.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Chat template")]
pub struct TemplateArgs {
    /// Tell the model of these functions: a JSON file with a list of tools in OpenAI's shape
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Use this chat template, where the model has several
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Set a variable of the chat template, such as enable_thinking=false: JSON or else text (may be given several times)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    template_var: Vec<(String, serde_json::Value)>,
}

impl TemplateArgs {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.tools.is_none() && self.template.is_none() && self.template_var.is_empty()
    }

    /// Options for a prompt that is ready for the assistant's answer. Templates that write the date get today's, in UTC.
    ///
    /// # Errors
    /// If the file of tools cannot be read or is no list.
    pub fn resolve(&self) -> anyhow::Result<ChatOptions> {
        let tools = self.tools.as_ref().map(|path| -> anyhow::Result<_> {
            let bytes = haikuq_files::read_at_most(path, MAX_TOOLS_BYTES).with_context(|| path.display().to_string())?;
            read_json(&bytes).with_context(|| format!("{}: no list of tools", path.display()))
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|t| i64::try_from(t.as_secs()).ok());
        let mut options = ChatOptions::default();
        options.now = now;
        options.tools = tools.transpose()?;
        options.template = self.template.clone();
        options.variables = self.template_var.iter().cloned().collect();
        Ok(options)
    }
}

/// `NAME=VALUE`, the value JSON or else text.
fn variable(argument: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = argument.split_once('=').ok_or("needs NAME=VALUE")?;
    match read_json(value.as_bytes()) {
        // JSON, but for an integer that is too large.
        Err(e) if e.is_data() => Err(e.to_string()),
        value_or_error => Ok((name.to_owned(), value_or_error.unwrap_or_else(|_| value.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_are_json_or_else_text() {
        assert_eq!(variable("enable_thinking=false").unwrap(), ("enable_thinking".into(), json!(false)));
        assert_eq!(variable("date_string=1 Jan = 2030").unwrap(), ("date_string".into(), json!("1 Jan = 2030")));
        assert_eq!(variable("x=").unwrap(), ("x".into(), json!("")));
        assert!(variable("enable_thinking").is_err());
        let (_, wide) = variable("n=123456789012345678901").unwrap();
        assert_eq!(wide, read_json::<serde_json::Value>(b"123456789012345678901").unwrap());
        assert!(!wide.is_f64());
        assert!(variable(&format!("n={}", "9".repeat(40))).unwrap_err().contains("40 digits"));
    }

    #[test]
    fn tools_are_a_list_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tools.json");
        let args = TemplateArgs { tools: Some(path.clone()), ..TemplateArgs::default() };
        std::fs::write(&path, br#"[{"type": "function"}]"#).unwrap();
        assert_eq!(args.resolve().unwrap().tools, Some(vec![json!({"type": "function"})]));
        std::fs::write(&path, b"{}").unwrap();
        assert!(format!("{:#}", args.resolve().unwrap_err()).contains("tools.json: no list of tools"));
    }
}
