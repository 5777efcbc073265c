// What becomes of q·k before the softmax.

// Below every score; an infinity would make NaN of `exp(masked - masked)`.
const MASKED: f32 = -1.0e30;

override SCALE: f32;
// Attention sees this many last positions; 0 is all.
override WINDOW: u32;
// Scores become SOFTCAP × tanh(score / SOFTCAP); 0 is none.
override SOFTCAP: f32;

fn soft_cap(score: f32) -> f32 {
    if SOFTCAP == 0.0 {
        return score;
    }
    // tanh by one exponential that cannot overflow; drivers differ in how they treat large arguments of tanh.
    let e = exp(-2.0 * abs(score / SOFTCAP));
    return sign(score) * SOFTCAP * (1.0 - e) / (1.0 + e);
}

// First position that a token at `position` sees.
fn first_seen(position: u32) -> u32 {
    if WINDOW == 0u || position < WINDOW {
        return 0u;
    }
    return position + 1u - WINDOW;
}
