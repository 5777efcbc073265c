//! Measures candidates on a device, at the first load of shapes that it has not met, on the model's own weights.
//!
//! Layers give distinct weights to read, so that caches help a candidate no more than they do in a step. A shape's candidates
//! run in turns, since a GPU that was idle becomes faster for a while, and the shortest of their times counts. The table's
//! choices are prepared first, and stay for the shapes that there is no time to measure.

use super::bind::{Choices, Context, Rivals};
use super::{Decoder, DecoderError};
use crate::device::{Dispatch, Gpu, GpuError, Timestamps};
use crate::kernels::attention::Token;
use crate::kernels::candidate::Kind;
use crate::kernels::choose::Restrictions;
use crate::kernels::measured::Times;
use crate::kernels::project::{FEW, Project};
use crate::ordered;
use crate::program::{Operation, PREFILL_STEP, Part, Phase, Program, Step, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use web_time::Instant;

/// What measuring may add to a load. Between two looks at the clock lies a kernel's compilation or one run.
const BUDGET: Duration = Duration::from_millis(300);

/// Whether candidates are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measure {
    /// The table decides, but for what the caller knows already.
    Never,
    /// On GPUs, for shapes whose times the caller does not know.
    #[default]
    Hardware,
    /// On software adapters too: to test it.
    Always,
}

impl Measure {
    pub(super) fn applies(self, gpu: &Gpu) -> bool {
        match self {
            Self::Never => false,
            Self::Hardware => !gpu.description.software,
            Self::Always => true,
        }
    }
}

/// Operations of one shape, and their candidates.
pub(super) struct Task {
    part: Part,
    /// Their places in the program of the part.
    operations: Vec<usize>,
    rivals: Rivals,
    /// Bytes of their weights.
    bytes: u64,
}

/// Positions over which attention is measured when it decodes, if the context is so long.
const DEPTH: usize = 2048;

/// Matrices that together are less than this share of a part are not worth the time.
const SMALL: u64 = 20;

/// Bytes of weights that no cache of a GPU holds.
const UNCACHED: u64 = 256 << 20;

impl Choices<'_> {
    /// What of a step of one token, and of a prompt's chunk, has candidates whose times are not known: the largest of each
    /// kind first. The cache has room for `positions`.
    pub(super) fn tasks(&self, chunk: usize, positions: usize) -> Vec<Task> {
        let tokens = chunk.min(positions) / PREFILL_STEP * PREFILL_STEP;
        let mut parts = vec![Part::Body(Step::of_decode(1)), Part::Head { rows: 1, from: Value::Hidden }];
        parts.extend((tokens > FEW).then(|| Part::Body(Step::of_prefill(tokens))));
        let mut kinds: BTreeMap<(Phase, &str), Vec<Task>> = BTreeMap::new();
        for part in parts {
            let program = self.program(part);
            let tasks = self.tasks_of(part, &program);
            let all: u64 = tasks.iter().map(|t| t.bytes).sum();
            for task in tasks.into_iter().filter(|t| t.bytes == 0 || t.bytes * SMALL >= all) {
                kinds.entry((program.phase, task.rivals.operation)).or_default().push(task);
            }
        }
        let mut ranked = Vec::new();
        for tasks in kinds.into_values() {
            ranked.extend(ordered::by_key(tasks, |t| u64::MAX - t.bytes).into_iter().enumerate());
        }
        let ranked = ordered::by_key(ranked, |(rank, t)| 2 * *rank as u64 + u64::from(t.rivals.operation != Project::NAME));
        let unknown = |task: &Task| {
            let times = self.restrictions.measured.find(task.rivals.operation, &task.rivals.shape);
            times.is_none_or(|t| task.rivals.names.iter().any(|name| !t.microseconds.contains_key(*name)))
        };
        ranked.into_iter().map(|(_, task)| task).filter(unknown).collect()
    }

    fn tasks_of(&self, part: Part, program: &Program) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        for (i, operation) in program.operations.iter().enumerate() {
            let Some(rivals) = self.rivals(program, operation) else { continue };
            let bytes = match operation {
                Operation::Project { matrix, .. } | Operation::ProjectTimes { matrix, .. } => self.weights.get(matrix).bytes(),
                _ => 0,
            };
            let same = |t: &&mut Task| t.rivals.operation == rivals.operation && t.rivals.shape == rivals.shape;
            match tasks.iter_mut().find(same) {
                Some(task) => {
                    task.operations.push(i);
                    task.bytes += bytes;
                }
                None => tasks.push(Task { part, operations: vec![i], rivals, bytes }),
            }
        }
        tasks
    }
}

impl Task {
    fn phase(&self) -> Phase {
        match self.part {
            Part::Body(step) => step.phase,
            Part::Head { .. } | Part::Sample { .. } => Phase::Decode,
        }
    }

    /// Operations that one run takes. Products of prompts are limited by arithmetic, so that two layers do.
    fn of_a_run(&self) -> &[usize] {
        let all = self.operations.len();
        let count = match self.phase() {
            Phase::Prefill => 2,
            Phase::Decode => (UNCACHED * all as u64).checked_div(self.bytes).map_or(all, |n| n as usize + 1),
        };
        &self.operations[..count.min(all)]
    }
}

impl Decoder {
    /// Compiles what [`Decoder::measure`] will run.
    pub(super) fn prepare_measuring(&mut self, tasks: &[Task]) {
        let (_, context) = self.parts_and_context();
        for task in tasks {
            let program = context.choices().program(task.part);
            for name in &task.rivals.names {
                // A candidate that fails now fails again when it is to run, and is left out then.
                let _ = bind(&context, &program, task, name, &task.operations[..1]);
            }
        }
    }

    /// Measures as many of `tasks` as there is time for, and chooses anew.
    pub(super) async fn measure(&mut self, tasks: &[Task]) -> Result<(), DecoderError> {
        let started = Instant::now();
        let elapsed = || started.elapsed().as_secs_f64();
        let budget = Budget { elapsed: &elapsed, limit: BUDGET.as_secs_f64() };
        // A sequence as long as fits the cache as it is: no memory is taken that a short text would not take.
        let positions = self.cache.unshared_positions();
        let id = self.cache.create()?;
        self.reserve(id, positions)?;
        let depth = self.cache.stretch(&self.gpu, id, DEPTH)?;
        let row = id.row as u32;
        let (_, context) = self.parts_and_context();
        let mut found = Vec::new();
        for task in tasks {
            if budget.is_spent() {
                break;
            }
            found.push(measure(&context, task, depth, row, &budget).await?);
        }
        self.cache.remove(id)?;
        for times in found {
            self.restrictions.measured.add(times);
        }
        self.parts = super::BoundParts::default();
        self.numerics = self.chosen_numerics()?;
        Ok(())
    }
}

/// Binds operations of a task with one of its candidates.
fn bind(
    context: &Context<'_>,
    program: &Program,
    task: &Task,
    name: &str,
    operations: &[usize],
) -> Result<Vec<Dispatch>, GpuError> {
    let pins = BTreeMap::from([(task.rivals.operation.to_string(), name.to_string())]);
    let pinned = Restrictions { exact: context.restrictions.exact, pins, ..Restrictions::default() };
    let context = context.with(&pinned);
    let mut dispatches = Vec::new();
    for i in operations {
        dispatches.extend(context.bind_operation(program, &program.operations[*i])?.dispatches);
    }
    Ok(dispatches)
}

async fn measure(context: &Context<'_>, task: &Task, depth: usize, row: u32, budget: &Budget<'_>) -> Result<Times, DecoderError> {
    let (gpu, program) = (context.gpu, context.choices().program(task.part));
    let token = |position: usize| Token { id: 0, position: position as u32, sequence: row, long: 0 };
    let first = if task.phase() == Phase::Decode { depth - 1 } else { 0 };
    let tokens: Vec<_> = (first..first + program.rows).map(token).collect();
    gpu.write(&context.buffers.tokens, 0, &tokens);
    gpu.finish().await?;
    let names = &task.rivals.names;
    let mut trial = OnGpu { context, program, task, timestamps: Timestamps::new(gpu, 2 * names.len() as u32), bound: Vec::new() };
    let times = race(&mut trial, names.len(), budget).await?;
    let microseconds = ordered::map(names.iter().zip(times).map(|(name, s)| (name.to_string(), s.map(|s| s * 1e6))));
    Ok(Times { operation: task.rivals.operation.into(), shape: task.rivals.shape.clone(), microseconds })
}

/// Candidates that can be run, by number.
trait Trial {
    /// Makes a candidate ready; false where it does not work.
    async fn prepare(&mut self, candidate: usize) -> Result<bool, GpuError>;
    /// Runs candidates, each `repeats` times: seconds of each for one operation.
    async fn run(&mut self, candidates: &[usize], repeats: usize) -> Result<Vec<f64>, GpuError>;
    /// Seconds that can be measured well.
    fn least(&self) -> f64;
    /// Seconds that `repeats` runs of a candidate take that takes `seconds` for one operation.
    fn span(&self, seconds: f64, repeats: usize) -> f64;
}

/// Time that may be spent, in seconds.
struct Budget<'a> {
    elapsed: &'a (dyn Fn() -> f64 + Sync),
    limit: f64,
}

impl Budget<'_> {
    fn is_spent(&self) -> bool {
        self.left() <= 0.0
    }

    fn left(&self) -> f64 {
        self.limit - (self.elapsed)()
    }
}

/// Rounds that count.
const ROUNDS: usize = 3;

/// A candidate that takes so many times as long as the fastest in its first run has lost.
const HOPELESS: f64 = 4.0;

/// Repetitions in a run that is too short to be measured.
const MOST_REPEATS: f64 = 64.0;

/// Runs of so many seconds need no second one: no cache or clock explains them.
const LONG: f64 = 0.02;

/// Seconds that each of `count` candidates takes, the first of which is the table's choice. None where a candidate does not
/// work or there was no time for it.
async fn race(trial: &mut impl Trial, count: usize, budget: &Budget<'_>) -> Result<Vec<Option<f64>>, GpuError> {
    let mut first: Vec<Option<f64>> = vec![None; count];
    for i in 0..count {
        // Others are likely to take about as long as the table's choice.
        if budget.left() <= first[0].map_or(0.0, |s| trial.span(s, 1)) {
            break;
        }
        if trial.prepare(i).await? && !budget.is_spent() {
            first[i] = Some(trial.run(&[i], 1).await?[0]);
        }
        if i == 0 && first[0].is_none() {
            return Ok(first);
        }
    }
    let best = first.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let is_over = |s: f64| trial.span(s, 1) >= LONG || (s > HOPELESS * best && trial.span(s, 1) >= trial.least());
    let mut times: Vec<_> = first.iter().map(|s| s.filter(|s| is_over(*s))).collect();
    let running: Vec<_> = (0..count).filter(|i| first[*i].is_some_and(|s| !is_over(s))).collect();
    let repeats = (trial.least() / trial.span(best, 1)).ceil().clamp(1.0, MOST_REPEATS) as usize;
    let round: f64 = running.iter().filter_map(|i| first[*i]).map(|s| trial.span(s, repeats)).sum();
    for _ in 0..ROUNDS {
        if running.is_empty() || budget.left() <= round {
            break;
        }
        for (i, s) in running.iter().zip(trial.run(&running, repeats).await?) {
            times[*i] = Some(times[*i].map_or(s, |before| before.min(s)));
        }
    }
    Ok(times)
}

/// Candidates of a task on the GPU.
struct OnGpu<'a> {
    context: &'a Context<'a>,
    program: Program,
    task: &'a Task,
    timestamps: Option<Timestamps>,
    bound: Vec<Vec<Dispatch>>,
}

impl OnGpu<'_> {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, candidate: usize, repeats: usize) {
        for _ in 0..repeats {
            self.bound[candidate].iter().for_each(|d| d.encode(pass));
        }
    }
}

impl Trial for OnGpu<'_> {
    async fn prepare(&mut self, candidate: usize) -> Result<bool, GpuError> {
        self.bound.resize_with(candidate + 1, Vec::new);
        let (bound, errors) = {
            let (device, task, name) = (&self.context.gpu.device, self.task, self.task.rivals.names[candidate]);
            // A candidate that the table would not have taken may fail without harm.
            let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation].map(|f| device.push_error_scope(f));
            let bound = bind(self.context, &self.program, task, name, task.of_a_run());
            let [internal, validation] = scopes;
            (bound, (validation.pop(), internal.pop()))
        };
        let failed = [errors.0.await, errors.1.await].iter().any(Option::is_some);
        self.context.gpu.check()?;
        let works = !failed && bound.is_ok();
        self.bound[candidate] = bound.unwrap_or_default();
        Ok(works)
    }

    async fn run(&mut self, candidates: &[usize], repeats: usize) -> Result<Vec<f64>, GpuError> {
        let gpu = self.context.gpu;
        let mut seconds = Vec::new();
        if let Some(timestamps) = &self.timestamps {
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            for i in candidates {
                self.encode(&mut timestamps.pass(&mut encoder, 2 * *i as u32), *i, repeats);
            }
            timestamps.resolve(&mut encoder);
            gpu.queue.submit([encoder.finish()]);
            let times = timestamps.read(gpu).await?;
            seconds.extend(candidates.iter().map(|i| times.seconds[*i]));
        } else {
            for i in candidates {
                let started = Instant::now();
                let mut encoder = gpu.device.create_command_encoder(&Default::default());
                self.encode(&mut encoder.begin_compute_pass(&Default::default()), *i, repeats);
                gpu.queue.submit([encoder.finish()]);
                gpu.finish().await?;
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        let operations = (self.task.of_a_run().len() * repeats) as f64;
        Ok(seconds.into_iter().map(|s| s / operations).collect())
    }

    /// Browsers round timestamps to 0.1 ms; without timestamps submission and notice take their part.
    fn least(&self) -> f64 {
        match &self.timestamps {
            None => 0.008,
            Some(_) if cfg!(target_arch = "wasm32") => 0.002,
            Some(_) => 0.0003,
        }
    }

    fn span(&self, seconds: f64, repeats: usize) -> f64 {
        seconds * (self.task.of_a_run().len() * repeats) as f64
    }
}

#[cfg(test)]
mod tests;
