// Activations of a decode step in blocks of eight bits, for `matvec_int8`: of each token the codes' words of the units'
// lower halves, those of the upper halves, and of each unit a scale and the sum of its codes. Units beyond the columns
// are zero. With NORM a workgroup takes a whole token, and the norm's factor is in the scales.

override WORKGROUP: u32 = 256u;
// Halves of a unit that a workgroup takes: whole turns of it.
override SHARE: u32;
// Units that there is room for.
override UNITS: u32;

struct Params {
    // vec4 from one token's activations to the next one's.
    stride: u32,
    units: u32,
    epsilon: f32,
    columns: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x_codes: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> x_affine: array<vec2<f32>>;
#ifdef NORM
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>;
var<workgroup> squares: array<f32, 64>;
#endif

#import quantize_block

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_id) subgroup: u32,
        @builtin(num_subgroups) subgroups: u32, @builtin(subgroup_size) subgroup_size: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
    let token = workgroup.y;
    let at = token * params.stride;
    let index = subgroup * subgroup_size + lane;
    let begin = workgroup.x * SHARE;
    var factor = 1.0;
#ifdef NORM
    var square = 0.0;
    for (var i = index; i < params.units * 8u; i += WORKGROUP) {
        let x = input[at + i];
        square += dot(x, x);
    }
    let part = subgroupAdd(square);
    if lane == 0u {
        squares[subgroup] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var s = 0u; s < subgroups; s++) {
        sum += squares[s];
    }
    // Not inverseSqrt, which may be approximate.
    factor = 1.0 / sqrt(sum / params.columns + params.epsilon);
#endif
    for (var first = begin; first < begin + SHARE; first += WORKGROUP) {
        let i = first + index;
        let inside = i < params.units * 2u;
        let vectors = min(i, params.units * 2u - 1u) * 4u;
        var x: mat4x4<f32>;
        for (var k = 0u; k < 4u; k++) {
            x[k] = select(vec4(0.0), input[at + vectors + k], inside);
#ifdef NORM
            x[k] *= gain[vectors + k];
#endif
        }
        let block = quantize_block(x);
        if i < UNITS * 2u {
            x_codes[(token * 2u + (i & 1u)) * UNITS + (i >> 1u)] = block.codes;
            if (i & 1u) == 0u {
                x_affine[token * UNITS + (i >> 1u)] = vec2(block.scale * factor, block.sum);
            }
        }
    }
}
