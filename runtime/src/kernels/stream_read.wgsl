// Reads a whole buffer once and keeps one sum an invocation: how fast memory can be read at best.

@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

override VECTORS: u32;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let stride = workgroups.x * 256u;
    var sum = vec4<u32>(0u);
    for (var i = id.x; i < VECTORS; i += stride) {
        sum += data[i];
    }
    sums[id.x] = sum.x + sum.y + sum.z + sum.w;
}
