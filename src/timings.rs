//! [`Timings`]: where the time of a conversion goes.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A part of a calibrated conversion's work, in the order in which it is first done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Sensitivities: the pass forward.
    CalibrationForward,
    /// Sensitivities: head and labels.
    CalibrationHead,
    /// Sensitivities: the pass backward.
    CalibrationBackward,
    /// Errors of sampled rows in all schemes, and the choice among these.
    Schemes,
    /// Sizes of columns, from all weights.
    Equalization,
    /// Weights of a layer from the checkpoint.
    Reading,
    /// Activations of the calibration windows, through original and through stored weights.
    Forward,
    /// Hessians of the inputs.
    Moments,
    /// What earlier errors changed in the inputs.
    Correction,
    /// Cholesky factor and inverse of a Hessian.
    Factorization,
    /// The correction from that: products with both triangles.
    Solving,
    /// Codebook, scales and codes.
    Codes,
    /// What a matrix loses on sampled tokens, and in its weights.
    Loss,
    /// Codes and scales to words, and these to the work folder.
    Packing,
    /// Shards written and hashed; sources hashed beside it.
    Shards,
}

impl Step {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::CalibrationForward => "calibration forward",
            Self::CalibrationHead => "calibration head",
            Self::CalibrationBackward => "calibration backward",
            Self::Schemes => "choice of schemes",
            Self::Equalization => "equalization",
            Self::Reading => "reading",
            Self::Forward => "forward",
            Self::Moments => "moments",
            Self::Correction => "correction",
            Self::Solving => "solving",
            Self::Factorization => "factorization",
            Self::Codes => "codes",
            Self::Loss => "loss",
            Self::Packing => "packing",
            Self::Shards => "shards and hashes",
        }
    }

    /// Whether the processor computes its products in integers ([`crate::matmul::integers`]).
    pub fn is_in_integers(self) -> bool {
        use Step::{CalibrationBackward, CalibrationForward, CalibrationHead, Correction, Forward, Moments};
        matches!(self, CalibrationForward | CalibrationHead | CalibrationBackward | Forward | Moments | Correction)
    }
}

/// What a step took, of one matrix or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spent {
    /// Time that passed.
    pub seconds: f64,
    /// Processor time of all threads of the process, where the system tells it.
    pub cpu_seconds: f64,
    /// Operations of matrix products.
    pub flop: f64,
}

impl Spent {
    /// Adds what another step took.
    pub fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.cpu_seconds += other.cpu_seconds;
        self.flop += other.flop;
    }
}

/// Collects what each step takes. Steps may lie within each other; an outer one does not count what an inner one took.
/// One thread at a time measures, however many work.
#[derive(Debug, Default)]
pub struct Timings {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spent: BTreeMap<(Step, String), Spent>,
    /// For each step that is open, what the steps within it took; the innermost last.
    within: Vec<Spent>,
}

impl Timings {
    /// Does `work`, a `step` of `flop` operations for the matrix called `matrix` (empty: of none alone).
    pub fn measure<R>(&self, step: Step, matrix: &str, flop: f64, work: impl FnOnce() -> R) -> R {
        self.with(|state| state.within.push(Spent::default()));
        let mut watch = Stopwatch::start();
        let result = work();
        let all = watch.lap(flop);
        self.with(|state| {
            let inner = state.within.pop().unwrap_or_default();
            let own = Spent { seconds: all.seconds - inner.seconds, cpu_seconds: all.cpu_seconds - inner.cpu_seconds, flop };
            state.spent.entry((step, matrix.to_string())).or_default().add(own);
            if let Some(outer) = state.within.last_mut() {
                outer.add(all);
            }
        });
        result
    }

    /// Adds what a step took that was measured elsewhere.
    pub fn add(&self, step: Step, matrix: &str, spent: Spent) {
        self.with(|state| state.spent.entry((step, matrix.to_string())).or_default().add(spent));
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Each step of each matrix.
    pub fn by_matrix(&self) -> Vec<(Step, String, Spent)> {
        self.with(|state| state.spent.iter().map(|((step, matrix), spent)| (*step, matrix.clone(), *spent)).collect())
    }

    /// Each step, all matrices together.
    pub fn by_step(&self) -> Vec<(Step, Spent)> {
        let mut sums = BTreeMap::<Step, Spent>::new();
        for (step, _, spent) in self.by_matrix() {
            sums.entry(step).or_default().add(spent);
        }
        sums.into_iter().collect()
    }
}

/// Measures the time between one lap and the next.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    begin: Instant,
    cpu: Duration,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { begin: Instant::now(), cpu: processor_time() }
    }

    /// What passed since the start, or the lap before, in which `flop` operations were done.
    pub fn lap(&mut self, flop: f64) -> Spent {
        let now = Self::start();
        let seconds = (now.begin - self.begin).as_secs_f64();
        let cpu_seconds = now.cpu.saturating_sub(self.cpu).as_secs_f64();
        *self = now;
        Spent { seconds, cpu_seconds, flop }
    }
}

/// Processor time of the process so far; zero where the system does not tell.
fn processor_time() -> Duration {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
    }
    #[cfg(not(unix))]
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_step_does_not_count_what_an_inner_one_took() {
        let timings = Timings::default();
        let wait = || std::thread::sleep(Duration::from_millis(20));
        timings.measure(Step::Forward, "", 6.0, || {
            timings.measure(Step::Moments, "layers.0.qkv", 2.0, wait);
            timings.measure(Step::Moments, "layers.1.qkv", 2.0, wait);
        });
        let steps = timings.by_step();
        let [(Step::Forward, outer), (Step::Moments, inner)] = steps[..] else { panic!("{steps:?}") };
        assert!(inner.seconds >= 0.04 && outer.seconds < 0.02, "{outer:?} {inner:?}");
        assert_eq!((outer.flop, inner.flop), (6.0, 4.0));
        assert_eq!(timings.by_matrix().len(), 3);
    }
}
