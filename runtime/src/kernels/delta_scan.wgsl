// The states of a gated delta net: S = decay · S; S += k ⊗ beta (v − Sᵀk); y = Sᵀq, one token after the other. An invocation has
// one column of a head's state, in registers from its sequence's first token of the step to the last.

override KEY_HEADS: u32;
override VALUE_HEADS: u32;
override KEY_DIM: u32;
override VALUE_DIM: u32;
// vec4 from one token's row of x to the next one's; f32 from one of y to the next.
override X_PITCH: u32;
override Y_PITCH: u32;
// Tokens that follow each other in one sequence; the grid's z counts others.
override TOKENS: u32;

// Queries, keys, values, decays, betas.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
// [sequences][VALUE_HEADS][KEY_DIM][VALUE_DIM]
@group(0) @binding(2) var<storage, read_write> states: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const IDLE = 0xffffffffu;
// Quarters of the widest key.
const MOST: u32 = 64u;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let column = group.x * 32u + local;
    let head = group.y;
    let start = tokens[group.z];
    if column >= VALUE_DIM || start.z == IDLE {
        return;
    }
    let quads = KEY_DIM / 4u;
    let keys = KEY_HEADS * quads;
    let key = head / (VALUE_HEADS / KEY_HEADS) * quads;
    let value = 2u * KEY_HEADS * KEY_DIM + head * VALUE_DIM + column;
    let decay_at = 2u * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM + head;
    let beta_at = decay_at + VALUE_HEADS;
    let first = (start.z * VALUE_HEADS + head) * KEY_DIM * VALUE_DIM + column;
    var s: array<vec4<f32>, MOST>;
    if start.y > 0u {
        for (var i = 0u; i < quads; i++) {
            let at = first + 4u * i * VALUE_DIM;
            s[i] = vec4<f32>(states[at], states[at + VALUE_DIM], states[at + 2u * VALUE_DIM], states[at + 3u * VALUE_DIM]);
        }
    }
    for (var step = 0u; step < TOKENS; step++) {
        let t = group.z + step;
        if tokens[t].z == IDLE {
            break;
        }
        let row = t * X_PITCH;
        let decay = x[row + decay_at / 4u][decay_at % 4u];
        var remembered = 0.0;
        for (var i = 0u; i < quads; i++) {
            s[i] *= decay;
            remembered += dot(s[i], x[row + keys + key + i]);
        }
        let correction = x[row + beta_at / 4u][beta_at % 4u] * (x[row + value / 4u][value % 4u] - remembered);
        var out = 0.0;
        for (var i = 0u; i < quads; i++) {
            s[i] += correction * x[row + keys + key + i];
            out += dot(s[i], x[row + key + i]);
        }
        y[t * Y_PITCH + head * VALUE_DIM + column] = out;
    }
    for (var i = 0u; i < quads; i++) {
        let at = first + 4u * i * VALUE_DIM;
        states[at] = s[i].x;
        states[at + VALUE_DIM] = s[i].y;
        states[at + 2u * VALUE_DIM] = s[i].z;
        states[at + 3u * VALUE_DIM] = s[i].w;
    }
}
