// Notes tokens of a prompt for the repetition penalty.

const IDLE: u32 = 0xffffffffu;

override TOKENS: u32;
override VOCAB: u32;
// Words of a row of `seen`.
override SEEN_WORDS: u32;

@group(0) @binding(0) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> seen: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    if invocation.x >= TOKENS {
        return;
    }
    let token = tokens[invocation.x];
    if token.z != IDLE && token.x < VOCAB {
        atomicOr(&seen[token.z * SEEN_WORDS + token.x / 32u], 1u << (token.x % 32u));
    }
}
