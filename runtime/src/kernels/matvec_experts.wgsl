// Products with the matrices of each token's experts, which lie one after the other in one matrix. A workgroup computes four rows:
// its invocations share out the octets of the columns, as those of `matvec` do. A token's arithmetic is the same whatever the other
// tokens are.
//
// Without COMBINE a workgroup takes one expert of one token, and writes what the output says (`shared/output.wgsl`). With COMBINE it takes
// all experts of a token, whose inputs lie side by side, and writes the sum of their products times their weights; RESIDUAL
// adds that to what is there.
//
// A chunk of the matrix may begin and end within an expert, at a multiple of four rows. Each adds its part.

#import projection
#import octet
#import activation

override WORKGROUP: u32 = 64u;
// Experts of a token, rows of each, and pairs from one token's routing to the next one's.
override ACTIVE: u32;
override EXPERT_ROWS: u32;
override ROUTING_PITCH: u32;
// Values of an expert's output, with its padding.
override OUTPUT_PITCH: u32;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
// Expert and weight, as bits.
@group(0) @binding(7) var<storage, read> routing: array<vec2<u32>>;
#ifdef BIAS
@group(0) @binding(8) var<storage, read> bias: array<f32>;
#endif

var<workgroup> sums: array<vec4<f32>, WORKGROUP>;

// The sum of four rows of the chunk over an octet of columns whose activations are `x` and `z`.
fn octet_product(row: u32, i: u32, x: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
    let last = params.rows - 1u;
    let a = octet_values(octet_load(row, i));
    let b = octet_values(octet_load(row + 1u, i));
    let c = octet_values(octet_load(row + 2u, i));
    let d = octet_values(octet_load(row + 3u, i));
    let sum = vec4(
        dot(a[0], x) + dot(a[1], z),
        dot(b[0], x) + dot(b[1], z),
        dot(c[0], x) + dot(c[1], z),
        dot(d[0], x) + dot(d[1], z),
    );
#ifdef GROUPED
    let affine = four_affine(row, last, i >> (params.group_units_log2 + 2u));
#ifdef LEARNED
    return affine[0] * sum;
#else
    let total = ((x.x + x.y) + (x.z + x.w)) + ((z.x + z.y) + (z.z + z.w));
    return fma(affine[0], sum, affine[1] * total);
#endif
#else
    return sum;
#endif
}

fn expert_bias(row: u32) -> vec4<f32> {
#ifdef BIAS
    return vec4(bias[row], bias[row + 1u], bias[row + 2u], bias[row + 3u]);
#else
    return vec4(0.0);
#endif
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>,
#ifdef SUBGROUP_LANE
        @builtin(subgroup_invocation_id) subgroup_lane: u32,
#endif
        @builtin(local_invocation_index) lane: u32) {
    let own = workgroup.x * 4u;
#ifdef COMBINE
    let token = workgroup.y;
    let first = 0u;
    let experts = ACTIVE;
#else
    let token = workgroup.y / ACTIVE;
    let first = workgroup.y % ACTIVE;
    let experts = 1u;
#endif
#ifdef TABLE_SUBGROUP
    table_load(subgroup_lane);
#endif
#ifdef TABLE_WORKGROUP
    table_load(lane);
    workgroupBarrier();
#endif
    let octets = params.units * 4u;
    let rounds = (octets + WORKGROUP - 1u) / WORKGROUP;
    var sum = vec4(0.0);
    var biases = vec4(0.0);
    var present = 0u;
    for (var n = 0u; n < ACTIVE; n++) {
        if n >= experts {
            break;
        }
        let chosen = routing[token * ROUTING_PITCH + first + n];
        let row = chosen.x * EXPERT_ROWS + own;
        // All rows are of this chunk or none, and all invocations agree on that.
        if row < params.first_row || row >= params.first_row + params.rows {
            continue;
        }
        present = 1u;
#ifdef COMBINE
        let weight = bitcast<f32>(chosen.y);
        let at = (token * ACTIVE + n) * params.units * 8u;
#else
        let weight = 1.0;
        let at = token * params.input_stride;
#endif
        for (var round = 0u; round < 0x1000000u; round++) {
            if round >= rounds {
                break;
            }
            // Lookups in a subgroup need all of it: those that have no columns left add zero.
            let i = min(round * WORKGROUP + lane, octets - 1u);
            let inside = round * WORKGROUP + lane < octets;
            let x = select(vec4(0.0), input[at + i * 2u], inside);
            let z = select(vec4(0.0), input[at + i * 2u + 1u], inside);
            sum += weight * octet_product(row - params.first_row, i, x, z);
        }
        biases += weight * expert_bias(row);
    }
    sums[lane] = sum;
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            sums[lane] += sums[lane + width];
        }
    }
    if lane != 0u {
        return;
    }
    let v = sums[0] + biases;
#ifdef COMBINE
    let at = token * params.output_stride + own;
    for (var r = 0u; r < 4u; r++) {
        var before = 0.0;
#ifdef RESIDUAL
        before = output[at + r];
#else
        // What chunks before this one added.
        if params.first_row > 0u {
            before = output[at + r];
        }
#endif
        output[at + r] = fma(params.multiplier, v[r], before);
    }
#else
    if present == 0u {
        return;
    }
    let at = workgroup.y * OUTPUT_PITCH;
#ifdef GLU
    // Rows are gate, up, gate, up.
    output[at + own / 2u] = gated(v.x, v.y);
    output[at + own / 2u + 1u] = gated(v.z, v.w);
#else
    for (var r = 0u; r < 4u; r++) {
        output[at + own + r] = activate(v[r]);
    }
#endif
#endif
}
