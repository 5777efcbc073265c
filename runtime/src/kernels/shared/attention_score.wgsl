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

#ifdef SINKS
// A score of each head that takes its share of the softmax, and has no value.
@group(0) @binding(8) var<storage, read> sinks: array<f32>;
#endif

// The sum of all weights of `head`, of those of positions and of the largest score among these. A sink far above that score
// leaves positions nothing: the exponential is infinite then.
fn with_sink(sum: f32, largest: f32, head: u32) -> f32 {
#ifdef SINKS
    return sum + exp(sinks[head] - largest);
#else
    return sum;
#endif
}

// First position that a token at `position` sees.
fn first_seen(position: u32) -> u32 {
    if WINDOW == 0u || position < WINDOW {
        return 0u;
    }
    return position + 1u - WINDOW;
}
