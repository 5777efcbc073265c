//! Kullback–Leibler divergence from a golden distribution of which only the largest logits are known.

use crate::logits::logsumexp;

/// What a golden file knows of one position: `k` largest logits and the log-sum-exp of all of them.
#[derive(Clone, Copy, Debug)]
pub struct TopLogits<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Their logits.
    pub logits: &'a [f32],
    /// Log-sum-exp of the whole vocabulary's logits, rounded to f32.
    pub logsumexp: f32,
}

/// `KL(golden ‖ model)` in nats over the golden top ids and one bucket for all other tokens.
///
/// `logits` is the model's whole row and `model_logsumexp` its log-sum-exp. Merging tokens into a bucket can only
/// lower the divergence, so this is a lower bound of that over the whole vocabulary, and equal to it where the golden
/// file has every logit.
///
/// The sum is split by the chain rule into *in or out of the top* and *which one of the top*. The second part needs no
/// log-sum-exp of the vocabulary at all, and the first takes both masses of the rest through `expm1`, so equal inputs
/// give (nearly) zero although the golden log-sum-exp has only 24 bits: its rounding is worth up to 1e-6 of
/// probability, which a bucket that small would turn into a divergence of the same size. The golden rest is therefore
/// taken as the value nearest to the model's that one unit in the last place either way allows.
pub fn kl_divergence(golden: TopLogits, logits: &[f32], model_logsumexp: f64) -> f64 {
    let model_top: Vec<f32> = golden.ids.iter().map(|&id| logits[id as usize]).collect();
    let (golden_lse, model_lse) = (logsumexp(golden.logits), logsumexp(&model_top));
    let within: f64 = golden
        .logits
        .iter()
        .zip(&model_top)
        .map(|(&g, &m)| {
            let (log_p, log_q) = (f64::from(g) - golden_lse, f64::from(m) - model_lse);
            log_p.exp() * (log_p - log_q)
        })
        .sum();
    if golden.ids.len() >= logits.len() {
        return within.max(0.0);
    }
    let rest_at = |logsumexp: f64| -(golden_lse - logsumexp).min(0.0).exp_m1();
    let stored = golden.logsumexp;
    let (low, high) = (rest_at(stored.next_down().into()), rest_at(stored.next_up().into()));
    let model_rest = rest_mass(golden.ids, logits, model_lse, model_logsumexp);
    let golden_rest = model_rest.clamp(low, high);
    ((1.0 - golden_rest) * within + binary_kl(golden_rest, model_rest, model_lse - model_logsumexp)).max(0.0)
}

/// Probability that the model gives to all tokens but `ids`.
fn rest_mass(ids: &[u32], logits: &[f32], top_logsumexp: f64, logsumexp: f64) -> f64 {
    let rest = -(top_logsumexp - logsumexp).exp_m1();
    if rest > 1e-6 {
        return rest;
    }
    // One minus nearly one has no digits left: add up the small ones themselves.
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    let others = logits.iter().enumerate().filter(|(i, _)| ids.binary_search(&(*i as u32)).is_err());
    others.map(|(_, &l)| (f64::from(l) - logsumexp).exp()).sum::<f64>().max(f64::MIN_POSITIVE)
}

/// Divergence of *in the rest or not*: golden probability `p` of the rest against the model's `q`, whose
/// `ln(1 − q)` is `log_top`.
fn binary_kl(p: f64, q: f64, log_top: f64) -> f64 {
    let rest = if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    let top = if p < 1.0 { (1.0 - p) * ((-p).ln_1p() - log_top) } else { 0.0 };
    rest + top
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logits::top_k;
    use proptest::prelude::*;

    fn golden(logits: &[f32], k: usize) -> (Vec<u32>, Vec<f32>, f32) {
        let (ids, top) = top_k(logits, k).into_iter().unzip();
        (ids, top, logsumexp(logits) as f32)
    }

    fn kl(golden_logits: &[f32], logits: &[f32], k: usize) -> f64 {
        let (ids, top, lse) = golden(golden_logits, k);
        kl_divergence(TopLogits { ids: &ids, logits: &top, logsumexp: lse }, logits, logsumexp(logits))
    }

    /// The definition, over buckets made one by one in f64.
    fn brute_force(golden_logits: &[f32], logits: &[f32], k: usize) -> f64 {
        let softmax = |l: &[f32]| {
            let sum: f64 = l.iter().map(|&x| f64::from(x).exp()).sum();
            l.iter().map(|&x| f64::from(x).exp() / sum).collect::<Vec<_>>()
        };
        let (p, q) = (softmax(golden_logits), softmax(logits));
        let top: Vec<usize> = top_k(golden_logits, k).iter().map(|t| t.0 as usize).collect();
        let bucket = |x: &[f64]| {
            let mut b: Vec<f64> = top.iter().map(|&i| x[i]).collect();
            b.push((0..x.len()).filter(|i| !top.contains(i)).map(|i| x[i]).sum());
            b
        };
        bucket(&p).iter().zip(bucket(&q)).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
    }

    fn rows() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (2usize..40).prop_flat_map(|n| (prop::collection::vec(-8f32..8.0, n), prop::collection::vec(-8f32..8.0, n)))
    }

    proptest! {
        #[test]
        fn is_the_definition_over_top_and_rest((g, m) in rows(), k in 1usize..45) {
            let expected = brute_force(&g, &m, k);
            // The golden log-sum-exp is an f32: 1e-6 of probability may lie on either side, where it weighs ln(p/q).
            prop_assert!((kl(&g, &m, k) - expected).abs() <= 2e-5 * (1.0 + expected), "{} and {expected}", kl(&g, &m, k));
        }

        #[test]
        fn is_at_most_the_whole_vocabularys_and_equal_with_every_logit((g, m) in rows(), k in 1usize..45) {
            let whole = brute_force(&g, &m, g.len());
            prop_assert!(kl(&g, &m, k) <= whole + 2e-5 * (1.0 + whole));
            prop_assert!((kl(&g, &m, g.len()) - whole).abs() < 1e-9 * (1.0 + whole));
        }

        #[test]
        fn equal_rows_do_not_diverge((g, _) in rows(), k in 1usize..45, peak in 0f32..40.0, shift in -3f32..3.0) {
            // A confident model: nearly all mass on one token, a rest of 1e-12 and less.
            let mut g = g;
            g[0] += peak;
            prop_assert!(kl(&g, &g, k) < 1e-12, "{}", kl(&g, &g, k));
            // A shift of all logits is the same distribution; f32 rounding moves each logit by 1e-6 at most.
            let shifted: Vec<f32> = g.iter().map(|x| x + shift).collect();
            prop_assert!(kl(&g, &shifted, k) < 1e-9, "{}", kl(&g, &shifted, k));
        }
    }

    #[test]
    fn a_model_that_rules_out_what_happens_is_far_but_finite() {
        let certain = kl(&[0.0, 0.0, 0.0], &[200.0, -200.0, -3000.0], 2);
        assert!(certain > 100.0 && certain.is_finite(), "{certain}");
    }
}
