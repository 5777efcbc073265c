//! `haikuq doctor`: which GPUs there are, which one is used and why, and whether it computes.

use crate::output::Context;
use anyhow::Context as _;
use clap::Args;
use haikuq::kernel_times::KernelTimes;
use haikuq_runtime::device::{AdapterDescription, Gpu, GpuOptions, list_adapters};
use haikuq_runtime::kernels::choose::{TypicalChoice, typical};
use haikuq_runtime::kernels::measured::Times;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the GPUs, what they can do, which one is used and why
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Diagnosis {
    schema: &'static str,
    version: &'static str,
    adapters: Vec<AdapterDescription>,
    chosen: usize,
    reason: String,
    /// What stands in the way of larger models or speed.
    remarks: Vec<String>,
    /// What the chosen adapter gets for typical shapes.
    kernels: Vec<TypicalChoice>,
    /// Times of kernels that loads of packages have measured on it.
    measured: Known,
}

/// Measured times, and where they are kept.
#[derive(Serialize)]
struct Known {
    /// None without a folder for caches.
    file: Option<PathBuf>,
    entries: Vec<Times>,
}

/// Runs the verb.
pub fn run(args: DoctorArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let adapters = pollster::block_on(list_adapters());
    let gpu = Gpu::open_blocking(&GpuOptions::new(context.adapter.clone()))?;
    computes(&gpu).with_context(|| format!("{} opens but does not compute", gpu.description.name))?;
    let chosen = gpu.description.index;
    let diagnosis = Diagnosis {
        schema: "haikuq.doctor/1",
        version: env!("CARGO_PKG_VERSION"),
        reason: reason(context, &adapters, chosen),
        remarks: remarks(&adapters[chosen]),
        adapters,
        chosen,
        kernels: typical(&gpu.profile)?,
        measured: known(&gpu, context),
    };
    if args.json {
        context.print_json(&diagnosis)?;
    } else {
        print(&diagnosis, context)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A round trip through the device's memory.
fn computes(gpu: &Gpu) -> anyhow::Result<()> {
    let data: Vec<u32> = (0..4096).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
    let buffer = gpu.upload("round trip", &data);
    let back = pollster::block_on(gpu.read::<u32>(&buffer, 0, data.len()))?;
    anyhow::ensure!(back == data, "memory comes back changed");
    Ok(())
}

/// What earlier loads have measured on a device.
fn known(gpu: &Gpu, context: &Context) -> Known {
    let Some(times) = KernelTimes::in_user_cache() else { return Known { file: None, entries: Vec::new() } };
    let key = gpu.key();
    let measured = times.read(&key).unwrap_or_else(|note| {
        context.warn(&[note]);
        None
    });
    Known { file: Some(times.file(&key)), entries: measured.map_or(Vec::new(), |m| m.entries) }
}

fn reason(context: &Context, adapters: &[AdapterDescription], chosen: usize) -> String {
    match &context.adapter {
        Some(wanted) => format!("asked for with --adapter or HAIKUQ_ADAPTER ({wanted})"),
        None if adapters.len() == 1 => "the only one".into(),
        None => format!("the first {} (discrete before integrated, virtual, other and software)", adapters[chosen].kind),
    }
}

fn remarks(a: &AdapterDescription) -> Vec<String> {
    let mut remarks = Vec::new();
    if a.kind == "Cpu" {
        remarks.push("this is software: right, but slow; with a GPU present, install its Vulkan driver".into());
    }
    if !a.shader_f16 {
        remarks.push("no shader-f16: the same packages run, matrix products somewhat slower".into());
    }
    if a.subgroups.is_none() {
        remarks.push("no subgroups: the same packages run, somewhat slower".into());
    }
    if a.max_storage_binding < 128 << 20 {
        remarks.push(format!("bindings end at {} MiB, under WebGPU's default of 128", a.max_storage_binding >> 20));
    }
    remarks
}

fn print(d: &Diagnosis, context: &Context) -> anyhow::Result<()> {
    context.print(format_args!("haikuq {}", d.version))?;
    for a in &d.adapters {
        let mark = if a.index == d.chosen { '*' } else { ' ' };
        context.print(format_args!("{mark} {}: {} ({}, {}; {})", a.index, a.name, a.kind, a.backend, a.driver))?;
        let subgroups = a.subgroups.map_or("no subgroups".into(), |(min, max)| format!("subgroups {min} to {max}"));
        let f16 = if a.shader_f16 { "shader-f16" } else { "no shader-f16" };
        context.print(format_args!("     {f16}, {subgroups}"))?;
        context.print(format_args!(
            "     bindings to {} MiB, buffers to {} MiB, {} storage buffers, offsets at {}, {} KiB workgroup memory",
            a.max_storage_binding >> 20,
            a.max_buffer >> 20,
            a.max_storage_buffers,
            a.offset_alignment,
            a.workgroup_memory >> 10,
        ))?;
    }
    context.print(format_args!("* {} is used: {}", d.adapters[d.chosen].name, d.reason))?;
    for k in &d.kernels {
        context.print(format_args!("  {}: {} ({})", k.task, k.candidate, k.numerics))?;
    }
    let file = d.measured.file.as_ref().map_or("nowhere (no folder for caches)".into(), |f| f.display().to_string());
    match d.measured.entries.len() {
        0 => context.print(format_args!("  no kernels measured yet; times are kept in {file}"))?,
        n => context.print(format_args!("  kernels measured for {n} shapes, kept in {file}:"))?,
    }
    for entry in &d.measured.entries {
        let one = |(name, us): (&String, &Option<f64>)| us.map_or(format!("{name} -"), |us| format!("{name} {us:.1} µs"));
        let times: Vec<_> = entry.microseconds.iter().map(one).collect();
        context.print(format_args!("    {} of {}: {}", entry.operation, entry.shape, times.join(", ")))?;
    }
    for remark in &d.remarks {
        context.print(format_args!("  {remark}"))?;
    }
    Ok(())
}
