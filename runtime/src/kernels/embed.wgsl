// Gathers the embedding rows of the step's tokens. One invocation for eight values of a token; one dispatch a chunk of
// the matrix. A chunk leaves tokens of other chunks alone; an id beyond the matrix becomes zeros, written by chunk 0.
//
// POSITIONS adds rows of a table of positions to what is there.

struct Params {
    // Rows of this chunk, the number of its first row, and rows of the whole matrix.
    rows: u32,
    first_row: u32,
    all_rows: u32,
    columns: u32,
    units: u32,
    groups: u32,
    group_units_log2: u32,
    // In vec4s.
    output_stride: u32,
    tokens: u32,
    multiplier: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;

#import octet

// Zero beyond the true columns: what pads a row in a chunk need not be zero in every scheme.
fn masked(values: vec4<f32>, column: u32) -> vec4<f32> {
    return select(vec4(0.0), values * params.multiplier, column + vec4(0u, 1u, 2u, 3u) < vec4(params.columns));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
    let index = (workgroup.y * workgroups.x + workgroup.x) * 64u + lane;
    let octets = params.units * 4u;
    let token = index / octets;
    if token >= params.tokens {
        return;
    }
    let i = index % octets;
#ifdef POSITIONS
    let id = tokens[token].y;
#else
    let id = tokens[token].x;
#endif
    let at = token * params.output_stride + i * 2u;
    if id >= params.first_row && id - params.first_row < params.rows {
        let row = id - params.first_row;
        var weights = octet_values(octet_load(row, i));
#ifdef GROUPED
        let a = affine(row, i >> (params.group_units_log2 + 2u));
        weights = mat2x4(four_weights(weights[0], a), four_weights(weights[1], a));
#endif
#ifdef POSITIONS
        output[at] += masked(weights[0], i * 8u);
        output[at + 1u] += masked(weights[1], i * 8u + 4u);
    }
#else
        output[at] = masked(weights[0], i * 8u);
        output[at + 1u] = masked(weights[1], i * 8u + 4u);
    } else if params.first_row == 0u && id >= params.all_rows {
        output[at] = vec4(0.0);
        output[at + 1u] = vec4(0.0);
    }
#endif
}
