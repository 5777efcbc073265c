// y = norm(y) · silu(z), or norm(y · silu(z)), for each group of WIDTH numbers of a token. One workgroup a group and token.

#import workgroup_sum

override WIDTH: u32;
// Gains from one group's to the next one's; 0 where all groups share them.
override GAIN_PITCH: u32;
override GATE_FIRST: bool;
override EPSILON: f32;
// Where z begins in a row of x.
override FIRST: u32;
// f32 values from one token's row to the next one's.
override X_PITCH: u32;
override Y_PITCH: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#ifdef NORM
@group(0) @binding(2) var<storage, read> gain: array<f32>;
#endif

fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y * Y_PITCH + group.x * WIDTH;
    let gates = group.y * X_PITCH + FIRST + group.x * WIDTH;
    var scale = 1.0;
#ifdef NORM
    var squares = 0.0;
    for (var d = local; d < WIDTH; d += WORKGROUP) {
        let u = select(y[row + d], y[row + d] * silu(x[gates + d]), GATE_FIRST);
        squares += u * u;
    }
    scale = 1.0 / sqrt(workgroup_sum(squares, local) / f32(WIDTH) + EPSILON);
#endif
    for (var d = local; d < WIDTH; d += WORKGROUP) {
        var factor = scale * silu(x[gates + d]);
#ifdef NORM
        factor *= gain[group.x * GAIN_PITCH + d];
#endif
        y[row + d] *= factor;
    }
}
