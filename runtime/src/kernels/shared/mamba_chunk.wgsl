// A Mamba 2 mixer over chunks of tokens: where a head's numbers are in a row of `x`, and what tokens of a chunk count.
// Whoever imports this declares `x` and `tokens`.

override HEADS: u32;
override HEAD_DIM: u32;
override GROUPS: u32;
override STATE_SIZE: u32;
// vec4 from one token's row of x to the next one's.
override X_PITCH: u32;
// Tokens of the step.
override TOKENS: u32;

const IDLE = 0xffffffffu;
// Tokens of a chunk.
const CHUNK = 32u;

// Of each token: where its row of x begins; the step, 0 if it is idle; the sum of the logarithms of decays up to it.
var<workgroup> rows: array<u32, CHUNK>;
var<workgroup> steps: array<f32, CHUNK>;
var<workgroup> logs: array<f32, CHUNK>;
var<workgroup> own_logs: array<f32, CHUNK>;

// Reads a head's tokens from token `first` on; all invocations come here.
fn read_tokens(head: u32, first: u32, index: u32) {
    if index < CHUNK {
        let t = first + index;
        let live = t < TOKENS && tokens[min(t, TOKENS - 1u)].z != IDLE;
        // Rows of idle tokens are not written by anybody: another stands for them, and counts for nothing.
        let row = select(first, t, live) * X_PITCH;
        let at = HEADS * HEAD_DIM + 2u * GROUPS * STATE_SIZE + head;
        rows[index] = row;
        steps[index] = select(0.0, x[row + at / 4u][at % 4u], live);
        let decay = x[row + (at + HEADS) / 4u][(at + HEADS) % 4u];
        own_logs[index] = select(0.0, log(max(decay, 1e-37)), live);
    }
    workgroupBarrier();
    if index < CHUNK {
        var sum = 0.0;
        for (var j = 0u; j < CHUNK; j++) {
            sum += select(0.0, own_logs[j], j <= index);
        }
        logs[index] = sum;
    }
    workgroupBarrier();
}

// vec4 of a row where a head's B begins; those of all groups' C follow on B.
fn b_of(head: u32) -> u32 {
    return (HEADS * HEAD_DIM + head / (HEADS / GROUPS) * STATE_SIZE) / 4u;
}

// States [chunk][head][HEAD_DIM][STATE_SIZE], then each chunk's and head's decay, in vec4.
fn state_of(chunk: u32, head: u32) -> u32 {
    return (chunk * HEADS + head) * HEAD_DIM * (STATE_SIZE / 4u);
}

fn decay_of(chunk: u32, head: u32) -> u32 {
    return state_of((TOKENS + CHUNK - 1u) / CHUNK, 0u) + chunk * HEADS + head;
}
