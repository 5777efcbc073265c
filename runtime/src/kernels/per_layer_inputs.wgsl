// x = MULTIPLIER * (rms(PROJECTED * x) * gain + rows), where SIZE numbers are normalized at a time, a layer's: a workgroup a layer
// and token.

override SIZE: u32;
// f32 values from one token to the next one, in x and in rows.
override PITCH: u32;
override PROJECTED: f32;
override EPSILON: f32;
override MULTIPLIER: f32;

@group(0) @binding(0) var<storage, read> gain: array<f32>;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

var<workgroup> partial_sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = group.y * PITCH + group.x * SIZE;
    var squares = 0.0;
    for (var i = local; i < SIZE; i += 64u) {
        let p = PROJECTED * x[at + i];
        squares += p * p;
    }
    partial_sums[local] = squares;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 64u; i++) {
        sum += partial_sums[i];
    }
    let scale = PROJECTED / sqrt(sum / f32(SIZE) + EPSILON);
    for (var i = local; i < SIZE; i += 64u) {
        x[at + i] = MULTIPLIER * fma(x[at + i] * scale, gain[i], rows[at + i]);
    }
}
