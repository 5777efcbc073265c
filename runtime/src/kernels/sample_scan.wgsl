// First half of sampling: a workgroup finds the largest penalized logit of SPAN tokens, and whether all are numbers.

#import sampling

const SPAN: u32 = 2048u;

@group(0) @binding(0) var<storage, read> logits: array<u32>;
@group(0) @binding(1) var<storage, read> params: array<Params>;
@group(0) @binding(2) var<storage, read> seen: array<u32>;
// [row][span]: order of the largest, its id, 1 where a logit is NaN or plus infinity, 0.
@group(0) @binding(3) var<storage, read_write> spans: array<vec4<u32>>;

var<workgroup> best: array<vec3<u32>, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let t = group.y;
    let sequence = params[t].sequence;
    if sequence == IDLE {
        return;
    }
    let penalty = params[t].repetition_penalty;
    let first = group.x * SPAN;
    let end = min(first + SPAN, VOCAB);
    // Order, id, meaningless.
    var mine = vec3<u32>(EXCLUDED, 0u, 0u);
    for (var id = first + local; id < end; id += 256u) {
        let bits = logits[t * PITCH + id];
        var seen_bits = 0u;
        if penalty != 1.0 {
            seen_bits = seen[sequence * SEEN_WORDS + id / 32u];
        }
        let order = penalized(bits, id, seen_bits, penalty);
        if !meaningful(bits) {
            mine.z = 1u;
        } else if order > mine.x {
            mine.x = order;
            mine.y = id;
        }
    }
    best[local] = mine;
    workgroupBarrier();
    for (var n = 128u; n > 0u; n /= 2u) {
        if local < n {
            let a = best[local];
            let b = best[local + n];
            let other = b.x > a.x || (b.x == a.x && b.y < a.y);
            best[local] = vec3<u32>(select(a.xy, b.xy, other), a.z | b.z);
        }
        workgroupBarrier();
    }
    if local == 0u {
        spans[t * num_groups.x + group.x] = vec4<u32>(best[0], 0u);
    }
}
