// y[t] = x[t] / sqrt(mean(x[t]^2) + EPSILON) * gain, or with LAYER
// y[t] = (x[t] - mean) / sqrt(variance + EPSILON) * gain, with BIAS + bias. With RESIDUAL that times MULTIPLIER is added
// to y[t]. With SCALED the result is multiplied with a number. One workgroup a token.

#import workgroup_sum

override COLUMNS: u32;
// padded(COLUMNS) / 4
override PITCH: u32;
override EPSILON: f32;
#ifdef RESIDUAL
override MULTIPLIER: f32;
#endif

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
#ifdef BIAS
@group(0) @binding(2) var<storage, read> bias: array<f32>;
#endif
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
#ifdef SCALED
@group(0) @binding(4) var<storage, read> multiplier: array<f32>;
#endif

// 1 for the components of vector `i` that are true columns, 0 for padding.
fn inside(i: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), vec4<f32>(1.0), vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(COLUMNS));
}

// Element `4 i + c` of a vector of COLUMNS values, 0 beyond.
fn gains(i: u32) -> vec4<f32> {
    let last = COLUMNS - 1u;
    let g = vec4<f32>(gain[min(4u * i, last)], gain[min(4u * i + 1u, last)], gain[min(4u * i + 2u, last)], gain[min(4u * i + 3u, last)]);
    return g * inside(i);
}

#ifdef BIAS
fn biases(i: u32) -> vec4<f32> {
    let last = COLUMNS - 1u;
    let b = vec4<f32>(bias[min(4u * i, last)], bias[min(4u * i + 1u, last)], bias[min(4u * i + 2u, last)], bias[min(4u * i + 3u, last)]);
    return b * inside(i);
}
#endif

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(num_subgroups) num_subgroups: u32,
#endif
) {
    let row = group.x * PITCH;
    var mean = 0.0;
#ifdef LAYER
    var sum = 0.0;
    for (var i = local; i < PITCH; i += WORKGROUP) {
        sum += dot(x[row + i], inside(i));
    }
#ifdef SUBGROUPS
    mean = workgroup_sum(sum, local, subgroup, lane, num_subgroups) / f32(COLUMNS);
#else
    mean = workgroup_sum(sum, local) / f32(COLUMNS);
#endif
#endif
    var squares = 0.0;
    for (var i = local; i < PITCH; i += WORKGROUP) {
        let d = (x[row + i] - mean) * inside(i);
        squares += dot(d, d);
    }
#ifdef SUBGROUPS
    let total = workgroup_sum(squares, local, subgroup, lane, num_subgroups);
#else
    let total = workgroup_sum(squares, local);
#endif
    let scale = 1.0 / sqrt(total / f32(COLUMNS) + EPSILON);
    for (var i = local; i < PITCH; i += WORKGROUP) {
        var value = (x[row + i] - mean) * scale * gains(i);
#ifdef BIAS
        value += biases(i);
#endif
#ifdef RESIDUAL
        value = fma(vec4<f32>(MULTIPLIER), value, y[row + i]);
#endif
#ifdef SCALED
        value *= multiplier[0];
#endif
        y[row + i] = value;
    }
}
