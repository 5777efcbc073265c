// Scales of groups: of each group's candidates the one with the least Σ importance (w − ŵ)², the first of equally good ones; 0
// if none is better than to store zeros. An invocation has one candidate of one group and adds up in the order of columns, as
// `quantize/scales.rs` does; then the first of a group's compares.

struct Params {
    rows: u32,
    groups: u32,
    // vec4s from row to row of the weights, and of a group.
    pitch: u32,
    group: u32,
    // Numbers from row to row of what is known of groups, and of their scales.
    out_pitch: u32,
    candidates: u32,
    // Groups of a workgroup.
    at_once: u32,
    // 0, which a compiler does not know.
    zero: u32,
    // Ascending; in fours.
    values: array<vec4<f32>, 8>,
    // Where the nearest value changes.
    middles: array<vec4<f32>, 8>,
    // What the group's exact fit is multiplied with, a candidate.
    parts: array<vec4<f32>, 8>,
}

override LEVELS: u32 = 16u;
// Candidates are the f16 numbers nearest to parts of what is known of the group; if not, that is the first one's index.
override PARTS: bool = false;

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<f32>>;
// A column.
@group(0) @binding(2) var<storage, read> importance: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> known: array<f32>;
// Scales that can be stored, and 1 over each (0 if that is not finite).
@group(0) @binding(4) var<storage, read> storable: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;

var<workgroup> errors: array<f32, WORKGROUP>;
var<workgroup> tried: array<f32, WORKGROUP>;

// `x` rounded by itself: a compiler that makes one operation of a product and a sum does not see through this.
fn alone(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}

// The bits of the nearest f16 of a number that is not negative.
fn f16_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if bits < 0x38800000u {
        return u32(round(x * 16777216.0));
    }
    return min(((bits + 0xfffu + ((bits >> 13u) & 1u)) >> 13u) - 0x1c000u, 0x7c00u);
}

fn nearest(x: f32) -> f32 {
    var value = params.values[0].x;
    for (var i = 1u; i < LEVELS; i++) {
        value = select(value, params.values[i / 4u][i % 4u], x > params.middles[(i - 1u) / 4u][(i - 1u) % 4u]);
    }
    return value;
}

fn squared(difference: f32, cost: f32) -> f32 {
    return alone(alone(cost * difference) * difference);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let number = (workgroup.y * grid.x + workgroup.x) * params.at_once + lane / params.candidates;
    let k = lane % params.candidates;
    let is_group = lane < params.at_once * params.candidates && number < params.rows * params.groups;
    let row = number / params.groups;
    let group = number % params.groups;
    if is_group {
        let start = known[row * params.out_pitch + group];
        var index = 0u;
        if PARTS {
            index = f16_bits(alone(start * params.parts[k / 4u][k % 4u]));
        } else {
            index = u32(start) + k;
        }
        index = min(index, arrayLength(&storable) - 1u);
        let scale = storable[index].x;
        let inverse = storable[index].y;
        var error = 0.0;
        let end = min((group + 1u) * params.group, params.pitch);
        for (var four = group * params.group; four < end; four++) {
            let w = weights[row * params.pitch + four];
            let cost = importance[four];
            for (var i = 0u; i < 4u; i++) {
                error += squared(w[i] - alone(nearest(alone(w[i] * inverse)) * scale), cost[i]);
            }
        }
        errors[lane] = error;
        tried[lane] = scale;
    }
    workgroupBarrier();
    if is_group && k == 0u {
        var least = 0.0;
        let end = min((group + 1u) * params.group, params.pitch);
        for (var four = group * params.group; four < end; four++) {
            let w = weights[row * params.pitch + four];
            let cost = importance[four];
            for (var i = 0u; i < 4u; i++) {
                least += squared(w[i], cost[i]);
            }
        }
        var best = 0.0;
        for (var i = 0u; i < params.candidates; i++) {
            if errors[lane + i] < least {
                least = errors[lane + i];
                best = tried[lane + i];
            }
        }
        scales[row * params.out_pitch + group] = best;
    }
}
