// A gated delta net over chunks of tokens: where a head's numbers are in a row of `x`, and in what `delta_chunk` makes of them.
// Whoever imports this declares `x` and `tokens`.

override KEY_HEADS: u32;
override VALUE_HEADS: u32;
override KEY_DIM: u32;
override VALUE_DIM: u32;
// vec4 from one token's row of x to the next one's.
override X_PITCH: u32;
// Tokens of the step.
override TOKENS: u32;

const IDLE = 0xffffffffu;
// Tokens of a chunk.
const CHUNK = 32u;

struct HeadAt {
    key_head: u32,
    // vec4 of a row.
    query: u32,
    key: u32,
    // f32 of a row.
    value: u32,
    log_decay: u32,
    beta: u32,
}

fn head_at(head: u32) -> HeadAt {
    let key_head = head / (VALUE_HEADS / KEY_HEADS);
    let keys = KEY_HEADS * KEY_DIM;
    let decays = 2u * keys + VALUE_HEADS * VALUE_DIM;
    return HeadAt(
        key_head,
        key_head * KEY_DIM / 4u,
        (keys + key_head * KEY_DIM) / 4u,
        2u * keys + head * VALUE_DIM,
        decays + head,
        decays + VALUE_HEADS + head,
    );
}

// Idle tokens are the last ones.
fn is_live(t: u32) -> bool {
    return t < TOKENS && tokens[min(t, TOKENS - 1u)].z != IDLE;
}

fn number(t: u32, at: u32) -> f32 {
    return x[min(t, TOKENS - 1u) * X_PITCH + at / 4u][at % 4u];
}

// Keys [vec4 of dimensions][token], then queries, in vec4.
fn tiles_of(chunk: u32, key_head: u32) -> u32 {
    return (chunk * KEY_HEADS + key_head) * 2u * CHUNK * (KEY_DIM / 4u);
}

// (I + L)⁻¹ β [token][token], then the weights of corrections, then each token's sum of logarithms of decays, in vec4.
fn matrices_of(chunk: u32, head: u32) -> u32 {
    let tiles = (TOKENS + CHUNK - 1u) / CHUNK * KEY_HEADS * 2u * CHUNK * (KEY_DIM / 4u);
    return tiles + (chunk * VALUE_HEADS + head) * (2u * CHUNK + 1u) * (CHUNK / 4u);
}
