// Sums over four neighbouring invocations of a workgroup of 32.

const LANES = 4u;

#ifndef SUBGROUPS
var<workgroup> parts: array<f32, 32>;
#endif

fn lane_sum(part: f32, index: u32) -> f32 {
#ifdef SUBGROUPS
    let pair = part + subgroupShuffleXor(part, 1u);
    return pair + subgroupShuffleXor(pair, 2u);
#else
    workgroupBarrier();
    parts[index] = part;
    workgroupBarrier();
    let first = index / LANES * LANES;
    return parts[first] + parts[first + 1u] + (parts[first + 2u] + parts[first + 3u]);
#endif
}
