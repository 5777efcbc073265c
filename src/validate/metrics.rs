//! How far a model is from golden outputs: perplexity, KL divergence and top-1 agreement, with their uncertainty.

use super::kl::{TopLogits, kl_divergence};
use crate::golden::record::{Outputs, perplexity};
use crate::logits::{argmax, logsumexp, nll, top_k};
use serde::{Deserialize, Serialize};

/// Positions kept as the worst ones.
const WORST: usize = 12;

/// Candidates shown for a worst position.
const CANDIDATES: usize = 3;

/// Compares rows of logits with golden outputs as they come.
pub struct Comparison<'a> {
    golden: &'a Outputs,
    /// Positions of a window before this one do not count.
    first: usize,
    /// \[S, T\], NaN where no row has come yet.
    kl: Vec<f64>,
    /// \[S, T − 1\].
    nll: Vec<f64>,
    agreed: usize,
    worst: Vec<Diverging>,
}

/// A position where model and golden outputs differ most.
#[derive(Clone, Debug, PartialEq)]
pub struct Diverging {
    /// Index of the window.
    pub window: usize,
    /// Index within the window; the logits are those of the token after it.
    pub position: usize,
    /// Divergence in nats.
    pub kl: f64,
    /// The golden outputs' likeliest next tokens with their probabilities.
    pub golden: Vec<(u32, f64)>,
    /// The model's.
    pub model: Vec<(u32, f64)>,
}

/// Everything measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The numbers.
    pub summary: Summary,
    /// Divergence of every position, \[S, T\], in nats.
    pub kl: Vec<f64>,
    /// The worst positions, worst first.
    pub worst: Vec<Diverging>,
}

/// A comparison in numbers. Divergences are in nats, agreement and increase in percent. Standard errors are absent
/// where there is one window only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Positions compared.
    pub positions: usize,
    /// Positions of each window before this one do not count.
    #[serde(default)]
    pub first_position: usize,
    /// Perplexity of the golden outputs.
    pub golden_perplexity: f64,
    /// Perplexity of the model on the same tokens.
    pub perplexity: f64,
    /// How much larger it is.
    pub perplexity_increase_percent: f64,
    /// Its standard error, over windows.
    pub perplexity_increase_standard_error: Option<f64>,
    /// Mean of `KL(golden ‖ model)` over all positions.
    pub mean_kl: f64,
    /// Its standard error, over windows: positions of one window are not independent.
    pub mean_kl_standard_error: Option<f64>,
    /// Median.
    pub median_kl: f64,
    /// 99th percentile.
    pub p99_kl: f64,
    /// Largest.
    pub max_kl: f64,
    /// Share of positions whose likeliest token is the golden one.
    pub top1_percent: f64,
    /// Its binomial standard error.
    pub top1_standard_error: f64,
}

/// What can go wrong while comparing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// A row outside the golden windows, or twice the same.
    #[error(
        "a row for window {window}, position {position}, which the golden outputs ({windows} windows of {context}) do not expect"
    )]
    Unexpected {
        /// Index of the window.
        window: usize,
        /// Index within the window.
        position: usize,
        /// Golden windows.
        windows: usize,
        /// Tokens in a window.
        context: usize,
    },
    /// A vocabulary that is too small for the golden ids.
    #[error(
        "window {window}, position {position}: a row of {logits} logits where the golden outputs name token {id}: another model"
    )]
    Vocabulary {
        /// Index of the window.
        window: usize,
        /// Index within the window.
        position: usize,
        /// Length of the row.
        logits: usize,
        /// The golden id.
        id: u32,
    },
    /// The model's numbers are broken.
    #[error("window {window}, position {position}: the model's logits are not finite")]
    NotFinite {
        /// Index of the window.
        window: usize,
        /// Index within the window.
        position: usize,
    },
    /// Rows are missing at the end.
    #[error("{missing} of {expected} rows of logits never came")]
    Missing {
        /// Rows that did not come.
        missing: usize,
        /// Rows that golden outputs have.
        expected: usize,
    },
}

impl<'a> Comparison<'a> {
    /// Starts a comparison with `golden`, in which a window's positions before `first` do not count.
    pub fn new(golden: &'a Outputs, first: usize) -> Self {
        let positions = golden.windows * golden.context;
        let first = first.min(golden.context.saturating_sub(2));
        Self {
            golden,
            first,
            kl: vec![f64::NAN; positions],
            nll: vec![0.0; positions - golden.windows],
            agreed: 0,
            worst: Vec::new(),
        }
    }

    /// Takes the model's `logits` (`[vocab_size]`) at `position` of `window`; any order, each once.
    ///
    /// # Errors
    /// See [`CompareError`].
    pub fn row(&mut self, window: usize, position: usize, logits: &[f32]) -> Result<(), CompareError> {
        let Outputs { windows, context, top, .. } = *self.golden;
        let at = window * context + position;
        if window >= windows || position >= context || !self.kl[at].is_nan() {
            return Err(CompareError::Unexpected { window, position, windows, context });
        }
        let next = (position + 1 < context).then(|| self.golden.input_ids[at + 1]);
        let ids = &self.golden.top_ids[at * top..(at + 1) * top];
        if let Some(&id) = ids.iter().chain(&next).find(|&&id| id as usize >= logits.len()) {
            return Err(CompareError::Vocabulary { window, position, logits: logits.len(), id });
        }
        let lse = logsumexp(logits);
        if !lse.is_finite() {
            return Err(CompareError::NotFinite { window, position });
        }
        let golden_logits = &self.golden.top_logits[at * top..(at + 1) * top];
        let golden = TopLogits { ids, logits: golden_logits, logsumexp: self.golden.logsumexp[at] };
        let kl = kl_divergence(golden, logits, lse);
        self.kl[at] = kl;
        if let Some(next) = next {
            self.nll[at - window] = nll(logits, lse, next);
        }
        if position < self.first {
            return Ok(());
        }
        self.agreed += usize::from(argmax(logits) == ids[0]);
        if self.worst.len() < WORST || self.worst.last().is_some_and(|w| w.kl < kl) {
            let probable =
                |pairs: Vec<(u32, f32)>, lse: f64| pairs.into_iter().map(|(id, l)| (id, (f64::from(l) - lse).exp())).collect();
            let first = ids.iter().copied().zip(golden_logits.iter().copied()).take(CANDIDATES).collect();
            let entry = Diverging {
                window,
                position,
                kl,
                golden: probable(first, golden.logsumexp.into()),
                model: probable(top_k(logits, CANDIDATES), lse),
            };
            self.worst.insert(self.worst.partition_point(|w| w.kl >= kl), entry);
            self.worst.truncate(WORST);
        }
        Ok(())
    }

    /// The result, once all rows are there.
    ///
    /// # Errors
    /// If rows are missing.
    pub fn finish(self) -> Result<Measured, CompareError> {
        let (windows, context) = (self.golden.windows, self.golden.context);
        let positions = self.kl.len();
        let missing = self.kl.iter().filter(|x| x.is_nan()).count();
        if missing > 0 {
            return Err(CompareError::Missing { missing, expected: positions });
        }
        let nll = counted(&self.nll, context - 1, self.first);
        let golden_nll = counted(&self.golden.nll, context - 1, self.first);
        let mean_nll = nll.iter().sum::<f64>() / nll.len() as f64;
        let difference: Vec<f64> = nll.iter().zip(&golden_nll).map(|(m, &g)| m - f64::from(g)).collect();
        let (increase, increase_error) = clustered_mean(&difference, windows);
        let mut sorted = counted(&self.kl, context, self.first);
        let (mean_kl, mean_kl_standard_error) = clustered_mean(&sorted, windows);
        sorted.sort_unstable_by(f64::total_cmp);
        let positions = sorted.len();
        let agreement = self.agreed as f64 / positions as f64;
        let summary = Summary {
            positions,
            first_position: self.first,
            golden_perplexity: perplexity(golden_nll.into_iter()),
            perplexity: mean_nll.exp(),
            perplexity_increase_percent: 100.0 * increase.exp_m1(),
            perplexity_increase_standard_error: increase_error.map(|e| 100.0 * increase.exp() * e),
            mean_kl,
            mean_kl_standard_error,
            median_kl: quantile(&sorted, 0.5),
            p99_kl: quantile(&sorted, 0.99),
            max_kl: quantile(&sorted, 1.0),
            top1_percent: 100.0 * agreement,
            top1_standard_error: 100.0 * (agreement * (1.0 - agreement) / positions as f64).sqrt(),
        };
        Ok(Measured { summary, kl: self.kl, worst: self.worst })
    }
}

/// What counts of windows of `width` values each: all from `first` on.
fn counted<T: Copy>(values: &[T], width: usize, first: usize) -> Vec<T> {
    values.chunks_exact(width).flat_map(|w| &w[first..]).copied().collect()
}

/// The mean of `values`, and its standard error from the means of `clusters` equal runs (none for a single one).
fn clustered_mean(values: &[f64], clusters: usize) -> (f64, Option<f64>) {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let all = mean(values);
    if clusters < 2 {
        return (all, None);
    }
    let n = clusters as f64;
    let squares: f64 = values.chunks_exact(values.len() / clusters).map(|c| (mean(c) - all).powi(2)).sum();
    (all, Some((squares / (n * (n - 1.0))).sqrt()))
}

/// The `q` quantile of ascending values, between neighbours by their distance.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    sorted[low] + part * (sorted[(low + 1).min(sorted.len() - 1)] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::record::record;
    use crate::model::{BoxError, LanguageModel};

    const VOCABULARY: usize = 50;

    /// Logits that depend on the last two ids, with noise of a given size.
    struct Toy {
        noise: f32,
    }

    impl Toy {
        fn row(&self, ids: &[u32], position: usize) -> Vec<f32> {
            let (a, b) = (ids[position] as f32, ids[position.saturating_sub(1)] as f32);
            let mix = |i: usize, f: f32| ((i as f32 + 1.0) * (a * 0.7 + b * 0.3 + f)).sin();
            (0..VOCABULARY).map(|i| 3.0 * mix(i, 0.1) + self.noise * mix(i, 2.9)).collect()
        }
    }

    impl LanguageModel for Toy {
        fn score_window(&mut self, ids: &[u32], on_row: &mut dyn FnMut(usize, &[f32])) -> Result<(), BoxError> {
            (0..ids.len()).for_each(|p| on_row(p, &self.row(ids, p)));
            Ok(())
        }
        fn generate_greedy(&mut self, _: &[u32], _: usize) -> Result<Vec<u32>, BoxError> {
            Ok(vec![])
        }
    }

    fn windows() -> Vec<Vec<u32>> {
        (0..4u32).map(|w| (0..30).map(|p| (p * 7 + w * 13 + p * p) % VOCABULARY as u32).collect()).collect()
    }

    fn compare(golden: &Outputs, model: &Toy) -> Measured {
        let mut comparison = Comparison::new(golden, 0);
        for (w, ids) in windows().iter().enumerate() {
            (0..ids.len()).for_each(|p| comparison.row(w, p, &model.row(ids, p)).unwrap());
        }
        comparison.finish().unwrap()
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let golden = record(&mut Toy { noise: 0.0 }, &windows(), 8, &mut |_| {}).unwrap();
        let Summary { mean_kl, max_kl, top1_percent, perplexity_increase_percent, .. } =
            compare(&golden, &Toy { noise: 0.0 }).summary;
        assert!(mean_kl < 1e-12 && max_kl < 1e-12, "{mean_kl} {max_kl}");
        assert_eq!(top1_percent, 100.0);
        assert!(perplexity_increase_percent.abs() < 1e-4, "{perplexity_increase_percent}");
    }

    #[test]
    fn numbers_are_those_of_the_whole_distributions_when_every_logit_is_kept() {
        let (exact, noisy) = (Toy { noise: 0.0 }, Toy { noise: 0.8 });
        let golden = record(&mut Toy { noise: 0.0 }, &windows(), VOCABULARY, &mut |_| {}).unwrap();
        let measured = compare(&golden, &noisy);
        let (mut kl, mut nlls, mut agreed, mut n) = (vec![], vec![], 0, 0);
        for ids in windows() {
            for p in 0..ids.len() {
                let softmax = |row: Vec<f32>| {
                    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                    row.iter().map(|&x| f64::from(x).exp() / sum).collect::<Vec<f64>>()
                };
                let (a, b) = (softmax(exact.row(&ids, p)), softmax(noisy.row(&ids, p)));
                kl.push(a.iter().zip(&b).map(|(a, b)| a * (a / b).ln()).sum::<f64>());
                let best = |x: &[f64]| (0..x.len()).max_by(|&i, &j| x[i].total_cmp(&x[j])).unwrap();
                agreed += usize::from(best(&a) == best(&b));
                n += 1;
                if let Some(&next) = ids.get(p + 1) {
                    nlls.push(-b[next as usize].ln());
                }
            }
        }
        let s = &measured.summary;
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        assert!((s.mean_kl - mean(&kl)).abs() < 1e-9);
        assert!((s.perplexity - mean(&nlls).exp()).abs() < 1e-4);
        assert!((s.top1_percent - 100.0 * agreed as f64 / n as f64).abs() < 1e-9);
        assert!(s.top1_percent < 100.0, "the noise must change something");
        kl.sort_by(f64::total_cmp);
        assert!((s.max_kl - kl[kl.len() - 1]).abs() < 1e-9);
        assert!((measured.worst[0].kl - s.max_kl).abs() < 1e-12);
        assert!(measured.worst.is_sorted_by(|a, b| a.kl >= b.kl));
        assert!(s.mean_kl_standard_error.unwrap() > 0.0);
    }

    #[test]
    fn positions_before_the_first_that_counts_change_nothing() {
        let (first, noisy) = (14, Toy { noise: 0.8 });
        let golden = record(&mut Toy { noise: 0.0 }, &windows(), VOCABULARY, &mut |_| {}).unwrap();
        let mut comparison = Comparison::new(&golden, first);
        for (w, ids) in windows().iter().enumerate() {
            let model = |p: usize| if p < first { Toy { noise: 9.0 }.row(ids, p) } else { noisy.row(ids, p) };
            (0..ids.len()).for_each(|p| comparison.row(w, p, &model(p)).unwrap());
        }
        let late = comparison.finish().unwrap();
        let all = compare(&golden, &noisy);
        let kl: Vec<f64> = all.kl.chunks(30).flat_map(|w| &w[first..]).copied().collect();
        assert_eq!((late.summary.positions, late.summary.first_position), (64, 14));
        assert!((late.summary.mean_kl - kl.iter().sum::<f64>() / 64.0).abs() < 1e-12);
        assert!((late.summary.golden_perplexity - golden.second_half_perplexity()).abs() < 1e-9);
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        let golden = record(&mut Toy { noise: 0.0 }, &windows(), 8, &mut |_| {}).unwrap();
        let ids = &windows()[0];
        let row = Toy { noise: 0.0 }.row(ids, 0);
        let mut comparison = Comparison::new(&golden, 0);
        comparison.row(0, 0, &row).unwrap();
        assert!(matches!(comparison.row(0, 0, &row), Err(CompareError::Unexpected { .. })));
        assert!(matches!(comparison.row(4, 0, &row), Err(CompareError::Unexpected { window: 4, .. })));
        assert!(matches!(comparison.row(0, 1, &row[..3]), Err(CompareError::Vocabulary { logits: 3, .. })));
        let broken: Vec<f32> = row.iter().map(|_| f32::NAN).collect();
        assert_eq!(comparison.row(0, 2, &broken), Err(CompareError::NotFinite { window: 0, position: 2 }));
        assert_eq!(comparison.finish().unwrap_err(), CompareError::Missing { missing: 119, expected: 120 });
    }

    #[test]
    fn the_error_of_a_mean_comes_from_its_clusters() {
        let (mean, error) = clustered_mean(&[1.0, 1.0, 3.0, 3.0], 2);
        assert_eq!((mean, error), (2.0, Some(1.0)));
        assert_eq!(clustered_mean(&[1.0, 2.0], 1), (1.5, None));
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0], 0.99), 1.0);
    }
}
