//! `haikuq bench`: how fast a package runs on a GPU.

use crate::arguments::format::FormatArgs;
use crate::arguments::generation::LoadArgs;
use crate::output::Context;
use crate::output::table::Table;
use crate::verbs::bench_format::{self, Formatted};
use clap::Args;
use haikuq::runner::Runner;
use haikuq_runtime::decoder::{Choice, Decoder, MemoryUse, Next, SequenceId, StepProfile};
use haikuq_runtime::device::AdapterDescription;
use haikuq_runtime::kernels::candidate::Numerics;
use haikuq_runtime::kernels::choose::Means;
use haikuq_runtime::kernels::stream_read::StreamRead;
use haikuq_runtime::sampling::SamplingOptions;
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Measure prefill and decode speed, time to first token, memory, and the share of the memory limit
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Folder of the package
    package: PathBuf,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 128)]
    decode_tokens: usize,
    /// Tokens in the cache before anything is measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Sequences decoded together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    batch: u8,
    /// Repetitions; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Show where the time of a step goes: GPU time by operation, time to encode, submit and wait
    #[arg(long)]
    profile: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Serialize)]
struct Report {
    schema: &'static str,
    package: String,
    adapter: AdapterDescription,
    prompt_tokens: usize,
    decode_tokens: usize,
    depth: usize,
    batch: usize,
    repeat: u32,
    load_s: f64,
    prefill_tokens_per_second: Option<f64>,
    time_to_first_token_s: Option<f64>,
    decode_tokens_per_second: Option<f64>,
    memory: MemoryUse,
    /// Bytes of weights that a decode step reads.
    bytes_per_step: u64,
    read_bandwidth_bytes_per_second: f64,
    /// Decode speed over that of reading the weights once a step at `read_bandwidth_bytes_per_second`.
    share_of_memory_limit: Option<f64>,
    numerics: Numerics,
    /// With a format: texts under it beside free ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    formatted: Option<Formatted>,
    /// With `--profile`: a step of prefill and one of decode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    profile: Vec<StepProfile>,
}

/// Runs the verb.
pub fn run(args: BenchArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let batch = usize::from(args.batch);
    let started = Instant::now();
    let mut runner = Runner::load(&args.package, &args.load.options(context.adapter.clone(), batch), &mut |_| {})?;
    let load_s = started.elapsed().as_secs_f64();
    context.warn(&runner.notes);
    let formatted = bench_format::measure(&mut runner, &args.format, args.decode_tokens, args.repeat)?;
    let decoder = &mut runner.decoder;
    let needed = args.depth + args.prompt_tokens.max(1) + args.decode_tokens;
    anyhow::ensure!(
        needed <= decoder.max_context(),
        "{needed} positions are asked for, but the context ends at {}",
        decoder.max_context()
    );

    let (mut first, mut decode) = (Vec::new(), Vec::new());
    // The first round compiles pipelines and warms caches; it does not count.
    for round in 0..=args.repeat {
        let times = pollster::block_on(measure(decoder, &args, batch))?;
        if round > 0 {
            first.push(times.first_token);
            decode.push(times.decode);
        }
        context.note(format_args!(
            "round {round} of {}: prompt {:.3} s, decode {:.3} s",
            args.repeat,
            times.first_token.as_secs_f64(),
            times.decode.as_secs_f64()
        ));
    }
    let rate = |tokens: usize, times: &mut Vec<Duration>| (tokens > 0).then(|| tokens as f64 / median(times).as_secs_f64());
    let decode_rate = rate(args.decode_tokens * batch, &mut decode);
    let gpu = decoder.gpu();
    let bandwidth = pollster::block_on(StreamRead::measure(gpu, if gpu.is_software() { 64 << 20 } else { 1 << 30 }))?;
    let profile = if args.profile { pollster::block_on(profile(decoder, &args, batch))? } else { Vec::new() };
    let bytes_per_step = decoder.bytes_per_token();
    let report = Report {
        schema: "haikuq.bench/1",
        package: args.package.display().to_string(),
        adapter: decoder.gpu().description.clone(),
        prompt_tokens: args.prompt_tokens,
        decode_tokens: args.decode_tokens,
        depth: args.depth,
        batch,
        repeat: args.repeat,
        load_s,
        prefill_tokens_per_second: rate(args.prompt_tokens, &mut first),
        time_to_first_token_s: (args.prompt_tokens > 0).then(|| median(&mut first).as_secs_f64()),
        decode_tokens_per_second: decode_rate,
        memory: decoder.memory(),
        numerics: decoder.numerics(),
        formatted,
        profile,
        bytes_per_step,
        read_bandwidth_bytes_per_second: bandwidth,
        share_of_memory_limit: decode_rate.map(|r| r / batch as f64 * bytes_per_step as f64 / bandwidth),
    };
    if args.json {
        context.print_json(&report)?;
    } else {
        print(&report, context)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Times {
    first_token: Duration,
    decode: Duration,
}

/// One round: fill the cache to the depth, then a prompt, then tokens. Every time ends when the GPU is done.
async fn measure(decoder: &mut Decoder, args: &BenchArgs, batch: usize) -> anyhow::Result<Times> {
    let sequences = (0..batch).map(|_| decoder.create_sequence()).collect::<Result<Vec<_>, _>>()?;
    let result = measure_with(decoder, args, &sequences).await;
    for id in sequences {
        decoder.remove_sequence(id)?;
    }
    result
}

async fn measure_with(decoder: &mut Decoder, args: &BenchArgs, sequences: &[SequenceId]) -> anyhow::Result<Times> {
    const GREEDY: SamplingOptions = SamplingOptions::greedy();
    let choice = Choice { sampling: &GREEDY, step: 0 };
    // Without any token there is nothing to decode from: one stands in for an empty prompt, outside the measured time.
    let warm = args.depth + usize::from(args.depth + args.prompt_tokens == 0);
    for id in sequences {
        prefill(decoder, *id, warm).await?;
    }
    decoder.logits(1).await?;
    let started = Instant::now();
    prefill(decoder, sequences[0], args.prompt_tokens).await?;
    let mut token = decoder.sample_first(sequences[0], choice).await?;
    let first_token = started.elapsed();
    for id in &sequences[1..] {
        prefill(decoder, *id, args.prompt_tokens).await?;
        decoder.sample_first(*id, choice).await?;
    }
    let started = Instant::now();
    let mut done = 0;
    while done < args.decode_tokens {
        let step: Vec<_> = sequences.iter().map(|id| Next { sequence: *id, token, choice }).collect();
        let most = args.decode_tokens - done;
        let mut on_ids = |ids: &[u32]| {
            (token, done) = (ids[0], done + 1);
            ControlFlow::Continue(())
        };
        decoder.decode_steps(&step, most, &mut on_ids).await?;
    }
    Ok(Times { first_token, decode: started.elapsed() })
}

/// A step of prefill and one of decode at the depth, the latter of all sequences.
async fn profile(decoder: &mut Decoder, args: &BenchArgs, batch: usize) -> anyhow::Result<Vec<StepProfile>> {
    let sequences = (0..batch).map(|_| decoder.create_sequence()).collect::<Result<Vec<_>, _>>()?;
    let result = async {
        for id in &sequences {
            prefill(decoder, *id, args.depth).await?;
        }
        let mut steps = Vec::new();
        if args.prompt_tokens > 1 {
            let tokens = args.prompt_tokens.min(decoder.prefill_chunk());
            steps.push(decoder.profile_prefill(sequences[0], tokens).await?);
        }
        if args.decode_tokens > 0 {
            steps.push(decoder.profile_decode(&sequences).await?);
        }
        anyhow::Ok(steps)
    };
    let result = result.await;
    for id in sequences {
        decoder.remove_sequence(id)?;
    }
    result
}

/// Fixed, varied ids: speed does not depend on which.
async fn prefill(decoder: &mut Decoder, id: SequenceId, count: usize) -> anyhow::Result<()> {
    let vocab = decoder.spec().vocab_size as u32;
    let ids: Vec<u32> = (0..count as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    for chunk in ids.chunks(decoder.prefill_chunk()) {
        decoder.prefill(id, chunk).await?;
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn print(r: &Report, context: &Context) -> anyhow::Result<()> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    context.print(format_args!("{} on {} ({})", r.package, r.adapter.name, r.adapter.backend))?;
    context.print(format_args!("load             {:8.2} s", r.load_s))?;
    if let (Some(rate), Some(first)) = (r.prefill_tokens_per_second, r.time_to_first_token_s) {
        context.print(format_args!("prefill          {rate:8.1} tokens/s ({} tokens at depth {})", r.prompt_tokens, r.depth))?;
        context.print(format_args!("first token      {:8.1} ms", first * 1e3))?;
    }
    if let (Some(rate), Some(share)) = (r.decode_tokens_per_second, r.share_of_memory_limit) {
        context.print(format_args!("decode           {rate:8.1} tokens/s ({} tokens, batch {})", r.decode_tokens, r.batch))?;
        context.print(format_args!(
            "memory limit     {:8.1} % reached ({:.1} MiB a step at {:.2} GB/s)",
            share * 100.0,
            mib(r.bytes_per_step),
            r.read_bandwidth_bytes_per_second / 1e9,
        ))?;
    }
    if let Some(f) = &r.formatted {
        bench_format::print(f, context)?;
    }
    context.print(format_args!("numerics         {:>8}", r.numerics.to_string()))?;
    for step in &r.profile {
        print_profile(step, r.read_bandwidth_bytes_per_second, context)?;
    }
    let (w, c, s) = (mib(r.memory.weights), mib(r.memory.cache), mib(r.memory.scratch));
    context.print(format_args!("GPU memory       {:8.1} MiB (weights {w:.1}, cache {c:.1}, scratch {s:.1})", w + c + s))
}

fn print_profile(step: &StepProfile, bandwidth: f64, context: &Context) -> anyhow::Result<()> {
    let gpu = step.gpu_s.map_or("no timestamps".into(), |s| format!("{:.3} ms on the GPU", s * 1e3));
    context.print(format_args!(
        "\n{} of {} tokens at depth {}: {gpu} in one pass, {} dispatches; encoding {:.3} ms, submission {:.3} ms, then {:.3} ms \
         of waiting",
        step.phase,
        step.tokens,
        step.depth,
        step.dispatches,
        step.encode_s * 1e3,
        step.submit_s * 1e3,
        step.wait_s * 1e3
    ))?;
    let mut table = Table::new(&[
        "operation",
        "kernel",
        "shape",
        ">count",
        ">dispatches",
        ">ms",
        ">µs each",
        ">GB/s",
        ">of limit",
        ">TFLOP/s",
        "chosen by",
    ]);
    for o in &step.operations {
        let rate = |n: u64| o.gpu_s.filter(|s| n > 0 && *s > 0.0).map(|s| n as f64 / s);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        table.row([
            o.operation.clone(),
            o.candidate.into(),
            o.shape.clone(),
            o.count.to_string(),
            o.dispatches.to_string(),
            or_dash(o.gpu_s.map(|s| format!("{:.3}", s * 1e3))),
            or_dash(o.gpu_s.map(|s| format!("{:.1}", s * 1e6 / o.count as f64))),
            or_dash(rate(o.bytes).map(|r| format!("{:.0}", r / 1e9))),
            or_dash(rate(o.bytes).map(|r| format!("{:.0} %", 100.0 * r / bandwidth))),
            or_dash(rate(o.flops).map(|r| format!("{:.2}", r / 1e12))),
            or_dash(o.chosen.as_ref().map(means)),
        ]);
    }
    context.print(format_args!("{table}"))
}

/// By which means a kernel was chosen, and the times that decided.
fn means(chosen: &Means) -> String {
    match chosen {
        Means::Table => "table".into(),
        Means::Pinned => "pin".into(),
        Means::Measured { microseconds, other, other_microseconds } => {
            format!("measured: {microseconds:.1} µs, {other} {other_microseconds:.1}")
        }
    }
}
