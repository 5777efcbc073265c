// y = activate(max(gate - mean - CUTOFF * deviation, 0)) * up, with mean and standard deviation of a token's gates. Gates and ups
// take turns in x. A workgroup a token.

#import workgroup_sum
#import activation

override WIDTH: u32;
// f32 values from one token's row to the next one's.
override X_PITCH: u32;
override Y_PITCH: u32;
override CUTOFF: f32;

@group(0) @binding(0) var<storage, read> x: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.x * (X_PITCH / 2u);
    var sum = 0.0;
    for (var i = local; i < WIDTH; i += WORKGROUP) {
        sum += x[row + i].x;
    }
    let mean = workgroup_sum(sum, local) / f32(WIDTH);
    var squares = 0.0;
    for (var i = local; i < WIDTH; i += WORKGROUP) {
        let d = x[row + i].x - mean;
        squares += d * d;
    }
    let cutoff = fma(CUTOFF, sqrt(workgroup_sum(squares, local) / f32(WIDTH)), mean);
    for (var i = local; i < WIDTH; i += WORKGROUP) {
        y[group.x * Y_PITCH + i] = gated(max(x[row + i].x - cutoff, 0.0), x[row + i].y);
    }
}
