// Takes the states of a Mamba 2 mixer from chunk to chunk: in the place of what a chunk adds comes the state before it. An
// invocation has four numbers of a head's state.

#import mamba_chunk

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
// (id, position, sequence, long)
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> made: array<vec4<f32>>;
// [sequences][HEADS][HEAD_DIM][STATE_SIZE]
@group(0) @binding(3) var<storage, read_write> states: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let head = group.y;
    let item = group.x * 64u + index;
    let start = tokens[0];
    if item >= HEAD_DIM * (STATE_SIZE / 4u) || start.z == IDLE {
        return;
    }
    let at = state_of(start.z, head) + item;
    var s = vec4<f32>(0.0);
    if start.y > 0u {
        s = states[at];
    }
    let chunks = (TOKENS + CHUNK - 1u) / CHUNK;
    var next = made[state_of(0u, head) + item];
    var next_decay = made[decay_of(0u, head)].x;
    for (var chunk = 0u; chunk < chunks; chunk++) {
        if tokens[chunk * CHUNK].z == IDLE {
            break;
        }
        let added = next;
        let decay = next_decay;
        // On its way while this chunk's is written.
        let following = min(chunk + 1u, chunks - 1u);
        next = made[state_of(following, head) + item];
        next_decay = made[decay_of(following, head)].x;
        made[state_of(chunk, head) + item] = s;
        s = decay * s + added;
    }
    states[at] = s;
}
