// First half of sampling: a workgroup finds the largest penalized logit of SPAN tokens, and whether all are numbers.

#import sampling

@group(0) @binding(0) var<storage, read> logits: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> params: array<Params>;
@group(0) @binding(2) var<storage, read> seen: array<u32>;
// [row][span]: order of the largest, its id, 1 where a logit is NaN or plus infinity, 0.
@group(0) @binding(3) var<storage, read_write> spans: array<vec4<u32>>;
#ifdef MASKED
// Tokens that may be chosen: [row][SEEN_WORDS], a bit an id.
@group(0) @binding(6) var<storage, read> mask: array<u32>;
#endif

var<workgroup> best: array<vec3<u32>, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let t = group.y;
    let p = params[t];
    if p.sequence == IDLE {
        return;
    }
    // Order, id, meaningless.
    var mine = vec3<u32>(EXCLUDED, 0u, 0u);
    for (var i = group.x * SPAN + 4u * local; i < min((group.x + 1u) * SPAN, VOCAB); i += 256u) {
        let bits = logits[(t * PITCH + i) / 4u];
        var seen_bits = 0u;
        if p.repetition_penalty != 1.0 {
            seen_bits = seen[p.sequence * SEEN_WORDS + i / 32u];
        }
#ifdef MASKED
        let allowed = mask[t * SEEN_WORDS + i / 32u];
#endif
        for (var c = 0u; c < 4u; c++) {
#ifdef MASKED
            if meaningful(bits[c]) && ((allowed >> ((i + c) % 32u)) & 1u) == 0u {
                continue;
            }
#endif
            let order = penalized(bits[c], i + c, seen_bits, p.repetition_penalty);
            if i + c >= VOCAB {
                break;
            }
            if !meaningful(bits[c]) {
                mine.z = 1u;
            } else if order > mine.x {
                mine.x = order;
                mine.y = i + c;
            }
        }
    }
    best[local] = mine;
    workgroupBarrier();
    for (var n = 32u; n > 0u; n /= 2u) {
        if local < n {
            best[local] = better(best[local], best[local + n]);
        }
        workgroupBarrier();
    }
    if local == 0u {
        spans[t * num_groups.x + group.x] = vec4<u32>(best[0], 0u);
    }
}
