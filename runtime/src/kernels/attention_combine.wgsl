// Merges the splits of attention_decode: a workgroup a token and head.

#import cache
#import attention_score

override HEADS: u32;
override PITCH: u32;
override SPLITS: u32;

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> tokens: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let quads = HEAD_DIM / 4u;
    let head = group.x;
    let t = group.y;
    let token = tokens[t];
    if head == 0u && local < PITCH - HEADS * quads {
        output[t * PITCH + HEADS * quads + local] = vec4<f32>(0.0);
    }
    // The splits that had pages, as attention_decode deals them out.
    let num_pages = token.y / PAGE + 1u - first_seen(token.y) / PAGE;
    let share = (num_pages + SPLITS - 1u) / SPLITS;
    let splits = select((num_pages + share - 1u) / share, 0u, token.z == IDLE);

    let first = (t * HEADS + head) * SPLITS * (quads + 1u);
    var largest = MASKED;
    for (var s = 0u; s < splits; s++) {
        largest = max(largest, partials[first + s * (quads + 1u)].x);
    }
    for (var quad = local; quad < quads; quad += 64u) {
        var sum = 0.0;
        var value = vec4<f32>(0.0);
        for (var s = 0u; s < splits; s++) {
            let record = first + s * (quads + 1u);
            let part = partials[record];
            let w = exp(part.x - largest);
            sum += w * part.y;
            value += w * partials[record + 1u + quad];
        }
        sum = with_sink(sum, largest, head);
        output[t * PITCH + head * quads + quad] = select(vec4<f32>(0.0), value / sum, splits > 0u);
    }
}
