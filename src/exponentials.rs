//! `exp` that compiles to vector instructions, and what is made of it.
//!
//! The C library's is a call a number, and most of the time of attention and of gated networks on a CPU. This one is a
//! polynomial on either side of zero (S. Moshier, Cephes, `expf`), with an error of at most one part in ten million. It
//! is compiled without fused multiply-add, so that all CPUs give the same bits.

/// Numbers that are summed side by side.
const LANES: usize = 16;

/// `e^x`; of less than −87 what it is of −87, and of more than 88 what it is of 88.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding 1.5 · 2²³ rounds to a whole number. The rest is at most ln 2 / 2 large; ln 2 is subtracted in two parts,
    // the first of which has few bits.
    let power = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = (x - power * 0.693_359_4) - power * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    (p * (r * r) + r + 1.0) * f32::from_bits(((power as i32 + 127) as u32) << 23)
}

/// Replaces scores by `e^(score − largest)` and returns the sum of these, which is at least 1.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
pub fn exponentials(scores: &mut [f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for some in scores.chunks(LANES) {
        for (lane, &s) in lanes.iter_mut().zip(some) {
            *lane = if s > *lane { s } else { *lane };
        }
    }
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    for some in scores.chunks_mut(LANES) {
        for (sum, s) in sums.iter_mut().zip(some) {
            *s = exp(*s - largest);
            *sum += *s;
        }
    }
    sums.iter().sum()
}

/// Makes scores probabilities.
pub fn softmax(scores: &mut [f32]) {
    let sum = exponentials(scores);
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// Makes scores probabilities beside one more score, whose own is not kept.
pub fn softmax_beside(scores: &mut [f32], other: f32) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = exponentials(scores) + exp(other - largest);
    scores.iter_mut().for_each(|s| *s /= sum);
}

/// `σ(x) = 1 / (1 + e^−x)` of each number.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
pub fn sigmoid(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = 1.0 / (1.0 + exp(-*x)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_to_a_part_in_ten_million() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let (have, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((have - exact).abs() < 1.2e-7 * exact, "{x}: {have:e}, {exact:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn another_score_takes_its_share() {
        let (mut scores, mut all) = ([0.5, -1.0, 2.0], [0.5, -1.0, 2.0, 3.0]);
        softmax_beside(&mut scores, 3.0);
        softmax(&mut all);
        scores.iter().zip(all).for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
    }

    #[test]
    fn probabilities_sum_to_one_and_broken_scores_are_seen() {
        let mut scores: Vec<f32> = (0..37).map(|i| (i * 7 % 11) as f32 - 200.0).collect();
        let before = scores.clone();
        softmax(&mut scores);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let by_hand = 1.0 / before.iter().map(|b| (f64::from(b - before[3])).exp()).sum::<f64>();
        assert!((f64::from(scores[3]) - by_hand).abs() < 1e-7);
        assert!(exponentials(&mut [0.0, f32::INFINITY]).is_nan());
        assert!(exponentials(&mut [0.0, f32::NAN]).is_nan());
    }
}
