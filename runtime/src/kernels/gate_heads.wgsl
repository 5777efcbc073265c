// y *= sigmoid(gate): each gate of a token serves SHARE numbers of its row that lie side by side.

override COLUMNS: u32;
override SHARE: u32;
// Where the first gate stands in a row.
override FIRST: u32;
// f32 values from one token's row to the next one's.
override X_PITCH: u32;
override Y_PITCH: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < COLUMNS {
        y[id.y * Y_PITCH + id.x] /= 1.0 + exp(-x[id.y * X_PITCH + FIRST + id.x / SHARE]);
    }
}
