// y = rms(y) · gain · silu(z) for each head of each token. One workgroup a head and token.

override VALUE_DIM: u32;
override EPSILON: f32;
// Where z begins in a row of x.
override FIRST: u32;
// f32 values from one token's row to the next one's.
override X_PITCH: u32;
override Y_PITCH: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const WORKGROUP = 64u;

var<workgroup> partial_sums: array<f32, 64>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y * Y_PITCH + group.x * VALUE_DIM;
    let gates = group.y * X_PITCH + FIRST + group.x * VALUE_DIM;
    var squares = 0.0;
    for (var d = local; d < VALUE_DIM; d += WORKGROUP) {
        squares += y[row + d] * y[row + d];
    }
    partial_sums[local] = squares;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < WORKGROUP; i++) {
        sum += partial_sums[i];
    }
    let scale = 1.0 / sqrt(sum / f32(VALUE_DIM) + EPSILON);
    for (var d = local; d < VALUE_DIM; d += WORKGROUP) {
        let z = x[gates + d];
        y[row + d] *= scale * gain[d] * z / (1.0 + exp(-z));
    }
}
