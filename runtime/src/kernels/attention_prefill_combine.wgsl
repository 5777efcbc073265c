// Merges the parts of attention_prefill_matrices or attention_prefill_tile: a workgroup a token and key/value head. Rows
// whose keys were one part are in the output already.

#import cache
#import attention_score
#import attention_parts

override HEADS: u32;
// vec4 from one token's output to the next one's.
override PITCH: u32;
// Rows and keys of the other kernel's tiles.
override TILE_ROWS: u32;
override TILE_KEYS: u32;

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;
// .x: tokens of the step.
@group(0) @binding(3) var<uniform> size: vec4<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = HEAD_DIM / 4u;
    let t = group.x;
    let kv_head = group.y;
    let num_rows = size.x * GROUP;
    let live = tokens[t].z != IDLE;
    for (var i = local; i < GROUP * quads; i += 64u) {
        let row = t * GROUP + i / quads;
        let quad = i % quads;
        let tile = row / TILE_ROWS * TILE_ROWS;
        let first = tile / GROUP;
        if tokens[first].z == IDLE {
            continue;
        }
        let last = last_live(first, (min(tile + TILE_ROWS, num_rows) - 1u) / GROUP);
        let parts = parts_of(tokens[first].y, tokens[last].y, TILE_KEYS).count;
        if parts == 1u {
            continue;
        }
        var largest = MASKED;
        for (var p = 0u; p < parts; p++) {
            largest = max(largest, partials[record_of(p, kv_head, row, num_rows)].x);
        }
        var sum = 0.0;
        var value = vec4<f32>(0.0);
        for (var p = 0u; p < parts; p++) {
            let record = record_of(p, kv_head, row, num_rows);
            let part = partials[record];
            let w = exp(part.x - largest);
            sum += w * part.y;
            value += w * partials[record + 1u + quad];
        }
        sum = with_sink(sum, largest, kv_head * GROUP + i / quads);
        output[t * PITCH + kv_head * GROUP * quads + i] = select(vec4<f32>(0.0), value / sum, live);
    }
}
