// y[t] = x[t] / sqrt(mean(x[t]^2) + EPSILON) * gain, or with LAYER
// y[t] = (x[t] - mean) / sqrt(variance + EPSILON) * gain, with BIAS + bias. With RESIDUAL that times MULTIPLIER is added
// to y[t]. With SCALED the result is multiplied with a number. One workgroup a token.

#import workgroup_sum

override COLUMNS: u32;
// padded(COLUMNS) / 4
override PITCH: u32;
override EPSILON: f32;
// vec4 of a row that an invocation holds in registers, of those that it has; the rest is read again for each use.
const MAX_HELD: u32 = 4u;
override HELD: u32;
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

// Vector `i`, and the bias where there is one.
fn biased(value: vec4<f32>, i: u32) -> vec4<f32> {
#ifdef BIAS
    let last = COLUMNS - 1u;
    let b = vec4<f32>(bias[min(4u * i, last)], bias[min(4u * i + 1u, last)], bias[min(4u * i + 2u, last)], bias[min(4u * i + 3u, last)]);
    return value + b * inside(i);
#else
    return value;
#endif
}

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
    // All of a row is on its way before the first sum is known: a small norm is a wait for memory, and nothing else.
    var own: array<vec4<f32>, MAX_HELD>;
    var own_gains: array<vec4<f32>, MAX_HELD>;
#ifdef RESIDUAL
    var before: array<vec4<f32>, MAX_HELD>;
#endif
    for (var n = 0u; n < HELD; n++) {
        let i = min(local + n * WORKGROUP, PITCH - 1u);
        own[n] = x[row + i];
#ifdef RESIDUAL
        before[n] = y[row + i];
#endif
        own_gains[n] = gains(i);
    }
    var scaled = 1.0;
#ifdef SCALED
    scaled = multiplier[0];
#endif
    var mean = 0.0;
#ifdef LAYER
    var sum = 0.0;
    for (var n = 0u; n < HELD; n++) {
        sum += dot(own[n], inside(local + n * WORKGROUP));
    }
    for (var i = local + HELD * WORKGROUP; i < PITCH; i += WORKGROUP) {
        sum += dot(x[row + i], inside(i));
    }
#ifdef SUBGROUPS
    mean = workgroup_sum(sum, local, subgroup, lane, num_subgroups) / f32(COLUMNS);
#else
    mean = workgroup_sum(sum, local) / f32(COLUMNS);
#endif
#endif
    var squares = 0.0;
    for (var n = 0u; n < HELD; n++) {
        let d = (own[n] - mean) * inside(local + n * WORKGROUP);
        squares += dot(d, d);
    }
    for (var i = local + HELD * WORKGROUP; i < PITCH; i += WORKGROUP) {
        let d = (x[row + i] - mean) * inside(i);
        squares += dot(d, d);
    }
#ifdef SUBGROUPS
    let total = workgroup_sum(squares, local, subgroup, lane, num_subgroups);
#else
    let total = workgroup_sum(squares, local);
#endif
    let scale = 1.0 / sqrt(total / f32(COLUMNS) + EPSILON);
    for (var n = 0u; n < HELD; n++) {
        let i = local + n * WORKGROUP;
        if i < PITCH {
            var value = biased((own[n] - mean) * scale * own_gains[n], i);
#ifdef RESIDUAL
            value = fma(vec4<f32>(MULTIPLIER), value, before[n]);
#endif
            y[row + i] = value * scaled;
        }
    }
    for (var i = local + HELD * WORKGROUP; i < PITCH; i += WORKGROUP) {
        var value = biased((x[row + i] - mean) * scale * gains(i), i);
#ifdef RESIDUAL
        value = fma(vec4<f32>(MULTIPLIER), value, y[row + i]);
#endif
        y[row + i] = value * scaled;
    }
}
