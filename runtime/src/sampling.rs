//! How the next token is chosen from the logits: the options, their exact meaning, and the CPU twin of the sampling
//! kernel.
//!
//! The steps, in the order of Hugging Face transformers' `generate`. Each works on what the one before left.
//!
//! 1. **Repetition penalty** `r`: each token that has occurred so far (in the prompt or in the answer, once or often)
//!    has its logit `l` replaced by `l × r` where `l < 0` and by `l / r` elsewhere.
//! 2. **Temperature** `t`: logits are divided by `t`. With `t = 0` the token of the largest logit is taken, the lowest
//!    id of equals, and nothing below applies.
//! 3. **Top-k**: tokens whose logit is less than the `k`-th largest drop out.
//! 4. **Top-p** `p`: with the probabilities of the tokens that are left (they sum to 1), a token stays where the
//!    probabilities of all tokens with a strictly larger logit sum to less than `p`.
//! 5. **Min-p** `m`: tokens whose probability is less than `m` times the largest one drop out.
//! 6. **Choice**: with a number `u` in `[0, 1)`, and the probabilities of the tokens that are left, it is the first
//!    token in the order of *ids* at which the cumulated probability exceeds `u`.
//!
//! Tokens of equal logits share one fate in steps 3 to 5 (transformers cuts among them by the order that its sort
//! happens to give), so that no step depends on an order and a GPU needs no sort. The most probable token always stays.
//!
//! `u` is [`uniform`] of the seed and the number of tokens chosen so far, so one seed gives one text whatever runs beside it.

/// What is asked of sampling. The defaults are greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Tokens that may be chosen at most (more where logits are equal); 0 is all.
    pub top_k: u32,
    /// Probability mass of the tokens that may be chosen, over 0 and up to 1; 1 is all.
    pub top_p: f32,
    /// Least probability relative to the most probable token, 0 to 1; 0 is all.
    pub min_p: f32,
    /// Over 0; 1 is none, more discourages tokens that have occurred.
    pub repetition_penalty: f32,
    /// Seed of [`uniform`].
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self::greedy()
    }
}

/// An option outside its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{option} is {value}, expected {expected}")]
pub struct SamplingError {
    /// Its name.
    pub option: &'static str,
    /// What was asked for.
    pub value: f32,
    /// The range, in words.
    pub expected: &'static str,
}

impl SamplingOptions {
    /// The most probable token, always.
    pub const fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }

    /// Whether the choice depends on no random number.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks that every option lies in its range.
    ///
    /// # Errors
    /// The first one that does not.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |option, value: f32, ok: bool, expected| {
            if ok && value.is_finite() { Ok(()) } else { Err(SamplingError { option, value, expected }) }
        };
        check("temperature", self.temperature, self.temperature >= 0.0, "0 (greedy) or more")?;
        check("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "more than 0 and at most 1")?;
        check("min-p", self.min_p, self.min_p >= 0.0 && self.min_p <= 1.0, "0 to 1")?;
        let penalty = self.repetition_penalty;
        check("repetition penalty", penalty, penalty > 0.0, "more than 0 (1 is none)")
    }
}

/// Number `step` of the random numbers of `seed`: uniform in `[0, 1)`, a multiple of 2⁻²⁴.
///
/// This is output `step` of the SplitMix64 generator started at `seed` (Steele, Lea and Flood, *Fast Splittable
/// Pseudorandom Number Generators*, 2014), which is a function of a counter and needs no state.
pub fn uniform(seed: u64, step: u64) -> f32 {
    let mut z = seed.wrapping_add(step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f32 / (1u32 << 24) as f32
}

/// The CPU twin of the sampling kernel: the id chosen from `logits` \[vocab_size\], where `seen` are the ids so far in any
/// order, repeated or not (ids beyond the vocabulary are ignored) and `uniform` lies in `[0, 1)`.
///
/// A logit of minus infinity excludes its token. `None` where no token is left or a logit is NaN or plus infinity:
/// the numbers mean nothing then, and any id would hide that.
pub fn sample_cpu(logits: &[f32], seen: &[u32], options: &SamplingOptions, uniform: f32) -> Option<u32> {
    if logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY) {
        return None;
    }
    let mut logits = logits.to_vec();
    apply_repetition_penalty(&mut logits, seen, options.repetition_penalty);
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return None;
    }
    if options.is_greedy() {
        return logits.iter().position(|l| *l == largest).map(|id| id as u32);
    }
    let weight = |l: f32| (f64::from(l - largest) / f64::from(options.temperature)).exp();

    let mut order: Vec<f32> = logits.iter().copied().filter(|l| *l > f32::NEG_INFINITY).collect();
    order.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut least = f32::MIN;
    if let Some(kth) = options.top_k.checked_sub(1).and_then(|k| order.get(k as usize)) {
        least = *kth;
        order.truncate(order.partition_point(|l| *l >= least));
    }
    if options.top_p < 1.0 {
        least = least.max(top_p_threshold(&order, options.top_p, weight));
    }
    let stays = |l: f32| l >= least && weight(l) >= f64::from(options.min_p);

    let total: f64 = logits.iter().filter(|l| stays(**l)).map(|l| weight(*l)).sum();
    let (mut sum, mut chosen) = (0.0, None);
    for (id, l) in logits.iter().enumerate().filter(|(_, l)| stays(**l)) {
        sum += weight(*l);
        // Rounding may leave the sum at 1 below u × total: then it is the last token that stays.
        chosen = Some(id as u32);
        if sum > f64::from(uniform) * total {
            break;
        }
    }
    chosen
}

/// Step 1, once for each id of `seen` that the vocabulary has.
fn apply_repetition_penalty(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(l) = logits.get_mut(id as usize) {
            *l = if *l < 0.0 { *l * penalty } else { *l / penalty };
        }
    }
}

/// The least logit that step 4 keeps, of `order`ed logits, largest first.
fn top_p_threshold(order: &[f32], p: f32, weight: impl Fn(f32) -> f64) -> f32 {
    let total: f64 = order.iter().map(|l| weight(*l)).sum();
    let (mut larger, mut least) = (0.0, order[0]);
    for equals in order.chunk_by(|a, b| a == b) {
        if larger >= f64::from(p) * total {
            break;
        }
        least = equals[0];
        larger += weight(least) * equals.len() as f64;
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Logits of the probabilities 0.4, 0.3, 0.2 and 0.1, in another order.
    fn logits() -> [f32; 4] {
        [0.2f32, 0.4, 0.1, 0.3].map(f32::ln)
    }

    fn warm() -> SamplingOptions {
        SamplingOptions { temperature: 1.0, ..SamplingOptions::greedy() }
    }

    /// The ids that can be chosen, each with its share of 10,000 evenly spaced numbers.
    fn shares(logits: &[f32], seen: &[u32], options: &SamplingOptions) -> Vec<(u32, f64)> {
        let mut counts = std::collections::BTreeMap::new();
        for i in 0..10_000 {
            *counts.entry(sample_cpu(logits, seen, options, i as f32 / 10_000.0).unwrap()).or_insert(0u32) += 1;
        }
        counts.into_iter().map(|(id, n)| (id, f64::from(n) / 10_000.0)).collect()
    }

    fn assert_shares(found: Vec<(u32, f64)>, expected: &[(u32, f64)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((id, share), (expected_id, expected_share)) in found.iter().zip(expected) {
            assert!(id == expected_id && (share - expected_share).abs() < 2e-4, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn greedy_takes_the_largest_logit_and_the_lowest_id_of_equals() {
        let greedy = SamplingOptions::greedy();
        assert_eq!(sample_cpu(&[1.0, 3.0, 3.0, 2.0], &[], &greedy, 0.99), Some(1));
        assert_eq!(sample_cpu(&[f32::NEG_INFINITY, -5.0], &[], &greedy, 0.0), Some(1));
    }

    #[test]
    fn meaningless_logits_give_no_token() {
        for options in [SamplingOptions::greedy(), warm()] {
            assert_eq!(sample_cpu(&[], &[], &options, 0.0), None);
            assert_eq!(sample_cpu(&[1.0, f32::NAN], &[], &options, 0.0), None);
            assert_eq!(sample_cpu(&[1.0, f32::INFINITY], &[], &options, 0.0), None);
            assert_eq!(sample_cpu(&[f32::NEG_INFINITY; 3], &[], &options, 0.0), None);
        }
    }

    #[test]
    fn a_temperature_of_one_samples_the_models_own_distribution() {
        assert_shares(shares(&logits(), &[], &warm()), &[(0, 0.2), (1, 0.4), (2, 0.1), (3, 0.3)]);
    }

    #[test]
    fn temperature_raises_probabilities_to_a_power() {
        let z: f64 = [0.04, 0.16, 0.01, 0.09].iter().sum();
        let half = SamplingOptions { temperature: 0.5, ..warm() };
        assert_shares(shares(&logits(), &[], &half), &[(0, 0.04 / z), (1, 0.16 / z), (2, 0.01 / z), (3, 0.09 / z)]);
    }

    #[test]
    fn top_k_keeps_the_k_most_probable_and_their_equals() {
        assert_shares(shares(&logits(), &[], &SamplingOptions { top_k: 2, ..warm() }), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
        assert_shares(shares(&[1.0, 2.0, 1.0, 0.0, 2.0], &[], &SamplingOptions { top_k: 1, ..warm() }), &[(1, 0.5), (4, 0.5)]);
        assert_eq!(shares(&logits(), &[], &SamplingOptions { top_k: 100, ..warm() }).len(), 4);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_the_mass() {
        let top_p = |top_p| SamplingOptions { top_p, ..warm() };
        assert_shares(shares(&logits(), &[], &top_p(0.5)), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
        assert_shares(shares(&logits(), &[], &top_p(0.75)), &[(0, 2.0 / 9.0), (1, 4.0 / 9.0), (3, 3.0 / 9.0)]);
        assert_shares(shares(&logits(), &[], &top_p(1e-6)), &[(1, 1.0)]);
    }

    #[test]
    fn top_p_counts_the_mass_that_top_k_left() {
        // Of 4/9, 3/9 and 2/9 the first two reach 7/9 = 0.778.
        let both = SamplingOptions { top_k: 3, top_p: 0.77, ..warm() };
        assert_shares(shares(&logits(), &[], &both), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
        assert_eq!(shares(&logits(), &[], &SamplingOptions { top_p: 0.77, ..warm() }).len(), 3);
    }

    #[test]
    fn min_p_is_relative_to_the_most_probable_token() {
        let min_p = |min_p| SamplingOptions { min_p, ..warm() };
        assert_shares(shares(&logits(), &[], &min_p(0.6)), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
        assert_shares(shares(&logits(), &[], &min_p(1.0)), &[(1, 1.0)]);
    }

    #[test]
    fn the_repetition_penalty_works_once_a_token_and_by_sign() {
        let penalized = SamplingOptions { repetition_penalty: 2.0, ..SamplingOptions::greedy() };
        assert_eq!(sample_cpu(&[3.0, 2.0], &[0], &penalized, 0.0), Some(1), "3 / 2 is less than 2");
        assert_eq!(sample_cpu(&[-1.0, -1.5], &[0], &penalized, 0.0), Some(1), "-1 × 2 is less than -1.5");
        assert_eq!(sample_cpu(&[5.0, 2.0], &[0, 0, 0, 9], &penalized, 0.0), Some(0), "5 / 2, once, is more than 2");
    }

    #[test]
    fn numbers_of_a_seed_are_those_of_splitmix64() {
        // The generator's first outputs for seed 1234567, as its authors' C code gives them.
        let expected = [6457827717110365317u64, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        for (step, z) in expected.into_iter().enumerate() {
            assert_eq!(uniform(1234567, step as u64), (z >> 40) as f32 / 16777216.0);
        }
        let mean = (0..10_000).map(|i| f64::from(uniform(7, i))).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn options_outside_their_range_are_refused_by_name() {
        assert_eq!(warm().validate(), Ok(()));
        for (options, name) in [
            (SamplingOptions { temperature: -0.1, ..warm() }, "temperature"),
            (SamplingOptions { temperature: f32::NAN, ..warm() }, "temperature"),
            (SamplingOptions { top_p: 0.0, ..warm() }, "top-p"),
            (SamplingOptions { top_p: 1.1, ..warm() }, "top-p"),
            (SamplingOptions { min_p: -0.1, ..warm() }, "min-p"),
            (SamplingOptions { repetition_penalty: 0.0, ..warm() }, "repetition penalty"),
            (SamplingOptions { repetition_penalty: f32::INFINITY, ..warm() }, "repetition penalty"),
        ] {
            assert_eq!(options.validate().unwrap_err().option, name);
        }
    }

    proptest! {
        #[test]
        fn what_is_chosen_survives_every_filter(
            logits in proptest::collection::vec(-20.0f32..20.0, 1..60),
            temperature in 0.05f32..3.0, top_k in 0u32..70, top_p in 0.01f32..=1.0, min_p in 0.0f32..=1.0, uniform in 0.0f32..1.0,
        ) {
            let options = SamplingOptions { temperature, top_k, top_p, min_p, ..warm() };
            let chosen = logits[sample_cpu(&logits, &[], &options, uniform).unwrap() as usize];
            let weight = |l: f32| f64::from(l / temperature).exp();
            let larger = || logits.iter().filter(|l| **l > chosen);
            prop_assert!(top_k == 0 || larger().count() < top_k as usize);
            let mut order = logits.clone();
            order.sort_by(|a, b| b.total_cmp(a));
            if top_k > 0 {
                let least = order[(top_k as usize).min(order.len()) - 1];
                order.retain(|l| *l >= least);
            }
            let total: f64 = order.iter().map(|l| weight(*l)).sum();
            prop_assert!(larger().map(|l| weight(*l)).sum::<f64>() < f64::from(top_p) * total * (1.0 + 1e-9));
            prop_assert!(weight(chosen) >= f64::from(min_p) * weight(order[0]) * (1.0 - 1e-5));
        }
    }
}
