// Puts the splits of attention_split together: a workgroup a token and head.

#import cache
#import attention_score

const ROWS: u32 = 1u;
override WORKGROUP: u32;
// vec4 from one token's output to the next one's.
override PITCH: u32;

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;

fn partial_load(i: u32) -> vec4<f32> {
    return partials[i];
}

#import attention_merge

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let token = tokens[group.y];
    let splits = shares_of(token.y).splits;
    // A single split has written its output itself, and that of an idle token.
    if token.z == IDLE || splits == 1u {
        return;
    }
    combine(group.y, group.x, 1u, splits, index);
}
