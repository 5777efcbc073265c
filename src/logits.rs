//! Plain arithmetic on one position's logits, in f64.

/// Natural logarithm of the sum of exponentials.
///
/// NaN if a logit is NaN, and negative infinity for no logits.
pub fn logsumexp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b.is_nan() { b } else { a.max(b) });
    if !max.is_finite() {
        return if logits.iter().any(|l| l.is_nan()) { f64::NAN } else { f64::from(max) };
    }
    let max = f64::from(max);
    max + logits.iter().map(|&l| (f64::from(l) - max).exp()).sum::<f64>().ln()
}

/// The id of the largest logit; the lowest id among equals, and 0 for no logits.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if l.total_cmp(&logits[best]).is_gt() {
            best = i;
        }
    }
    best as u32
}

/// The `k` largest logits with their ids, largest first, lower ids first among equals; all of them where there are
/// fewer than `k`.
pub fn top_k(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let before = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if k < ids.len() {
        if k > 0 {
            ids.select_nth_unstable_by(k - 1, before);
        }
        ids.truncate(k);
    }
    ids.sort_unstable_by(before);
    ids.into_iter().map(|i| (i, logits[i as usize])).collect()
}

/// Negative log-likelihood of `target` in nats: `logsumexp(logits) − logits[target]`.
pub fn nll(logits: &[f32], logsumexp: f64, target: u32) -> f64 {
    logsumexp - f64::from(logits[target as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logsumexp_neither_overflows_nor_hides_nan() {
        assert!((logsumexp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-12);
        assert!(logsumexp(&[0.0, f32::NAN, 1.0]).is_nan());
        assert_eq!(logsumexp(&[]), f64::NEG_INFINITY);
    }

    #[test]
    fn the_largest_come_first_and_equals_by_id() {
        let logits = [1.0, 5.0, 3.0, 5.0, -1.0];
        assert_eq!(top_k(&logits, 3), [(1, 5.0), (3, 5.0), (2, 3.0)]);
        assert_eq!(top_k(&logits, 9).len(), 5);
        assert_eq!(top_k(&logits, 0), []);
        assert_eq!(argmax(&logits), 1);
    }
}
