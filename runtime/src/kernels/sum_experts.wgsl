// The outputs of each token's experts, times their weights, added up. RESIDUAL adds that to the output.

override ACTIVE: u32;
override COLUMNS: u32;
override ROUTING_PITCH: u32;
// Values from one output of an expert, or of a token, to the next one.
override PITCH: u32;
override MULTIPLIER: f32;

@group(0) @binding(0) var<storage, read> routing: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> each: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= COLUMNS {
        return;
    }
    var sum = 0.0;
    for (var n = 0u; n < ACTIVE; n++) {
        let weight = bitcast<f32>(routing[id.y * ROUTING_PITCH + n].y);
        sum = fma(weight, each[(id.y * ACTIVE + n) * PITCH + id.x], sum);
    }
    let at = id.y * PITCH + id.x;
#ifdef RESIDUAL
    output[at] = fma(MULTIPLIER, sum, output[at]);
#else
    output[at] = sum;
#endif
}
