// y *= x, or with SIGMOID y *= sigmoid(x), with LAUREL y = (y + x) / sqrt(2), with COPY y = x: each number of x serves SHARE numbers of its row of y that lie side by side.

override COLUMNS: u32;
override SHARE: u32;
// Where the first number of x stands in a row.
override FIRST: u32;
// f32 values from one token's row to the next one's; 0 where all tokens have the same row of x.
override X_PITCH: u32;
override Y_PITCH: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < COLUMNS {
        let by = x[id.y * X_PITCH + FIRST + id.x / SHARE];
#ifdef SIGMOID
        y[id.y * Y_PITCH + id.x] /= 1.0 + exp(-by);
#else
#ifdef LAUREL
        y[id.y * Y_PITCH + id.x] = (y[id.y * Y_PITCH + id.x] + by) * 0.70710678;
#else
#ifdef COPY
        y[id.y * Y_PITCH + id.x] = by;
#else
        y[id.y * Y_PITCH + id.x] *= by;
#endif
#endif
#endif
    }
}
