// The same as `matvec_experts` for many tokens: a workgroup computes four rows of one expert for up to eight pairs of token and expert
// (`sort_experts`), and reads each weight once for all of them. Every pair has an output of its own; `sum_experts` adds them up
// where that is wanted.
//
// With EACH the pairs' inputs lie side by side, otherwise a token's pairs share its input. Flags: BIAS, and none or one of GLU, ACTIVATE.

#import projection
#import octet
#import activation

override ACTIVE: u32;
override EXPERT_ROWS: u32;
override TILES: u32;

const WORKGROUP: u32 = 64u;
const TILE: u32 = 8u;

@group(0) @binding(1) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;
@group(0) @binding(7) var<storage, read> groups: array<u32>;
#ifdef BIAS
@group(0) @binding(8) var<storage, read> bias: array<f32>;
#endif

var<workgroup> lane_sums: array<vec4<f32>, 512>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>,
#ifdef SUBGROUP_LANE
        @builtin(subgroup_invocation_id) subgroup_lane: u32,
#endif
        @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup.y * 3u;
    let expert = groups[tile];
    let first = groups[tile + 1u];
    let count = groups[tile + 2u];
    let own = workgroup.x * 4u;
    let row = expert * EXPERT_ROWS + own;
    if count == 0u || row < params.first_row || row >= params.first_row + params.rows {
        return;
    }
#ifdef TABLE_SUBGROUP
    table_load(subgroup_lane);
#endif
#ifdef TABLE_WORKGROUP
    table_load(lane);
    workgroupBarrier();
#endif
    let in_chunk = row - params.first_row;
    var inputs: array<u32, TILE>;
    var sums: array<vec4<f32>, TILE>;
    for (var j = 0u; j < TILE; j++) {
        let pair = groups[TILES * 3u + first + min(j, count - 1u)];
#ifdef EACH
        inputs[j] = pair * params.units * 8u;
#else
        inputs[j] = pair / ACTIVE * params.input_stride;
#endif
        sums[j] = vec4(0.0);
    }
    let octets = params.units * 4u;
    let rounds = (octets + WORKGROUP - 1u) / WORKGROUP;
    for (var round = 0u; round < 0x1000000u; round++) {
        if round >= rounds {
            break;
        }
        // Lookups in a subgroup need all of it: those that have no columns left add zero.
        let i = min(round * WORKGROUP + lane, octets - 1u);
        let inside = round * WORKGROUP + lane < octets;
        let a = octet_values(octet_load(in_chunk, i));
        let b = octet_values(octet_load(in_chunk + 1u, i));
        let c = octet_values(octet_load(in_chunk + 2u, i));
        let d = octet_values(octet_load(in_chunk + 3u, i));
        let low = transpose(mat4x4(a[0], b[0], c[0], d[0]));
        let high = transpose(mat4x4(a[1], b[1], c[1], d[1]));
#ifdef GROUPED
        let affine = four_affine(in_chunk, params.rows - 1u, i >> (params.group_units_log2 + 2u));
#endif
        for (var j = 0u; j < TILE; j++) {
            let x = select(vec4(0.0), input[inputs[j] + i * 2u], inside);
            let z = select(vec4(0.0), input[inputs[j] + i * 2u + 1u], inside);
            let sum = low * x + high * z;
#ifdef GROUPED
#ifdef LEARNED
            sums[j] = fma(affine[0], sum, sums[j]);
#else
            let total = ((x.x + x.y) + (x.z + x.w)) + ((z.x + z.y) + (z.z + z.w));
            sums[j] += fma(affine[0], sum, affine[1] * total);
#endif
#else
            sums[j] += sum;
#endif
        }
    }
    for (var j = 0u; j < TILE; j++) {
        lane_sums[j * WORKGROUP + lane] = sums[j];
    }
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if lane < width {
            for (var j = 0u; j < TILE; j++) {
                lane_sums[j * WORKGROUP + lane] += lane_sums[j * WORKGROUP + lane + width];
            }
        }
    }
    workgroupBarrier();
    if lane >= count {
        return;
    }
    var v = lane_sums[lane * WORKGROUP];
#ifdef BIAS
    v += vec4(bias[row], bias[row + 1u], bias[row + 2u], bias[row + 3u]);
#endif
    let at = groups[TILES * 3u + first + lane] * params.output_stride;
#ifdef GLU
    // Rows are gate, up, gate, up.
    output[at + own / 2u] = gated(v.x, v.y);
    output[at + own / 2u + 1u] = gated(v.z, v.w);
#else
    for (var r = 0u; r < 4u; r++) {
#ifdef ACTIVATE
        output[at + own + r] = activate(v[r]);
#else
        output[at + own + r] = v[r];
#endif
    }
#endif
}
