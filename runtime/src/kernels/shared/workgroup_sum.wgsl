// Sums over a workgroup of WORKGROUP invocations (a power of two, 256 at most).

override WORKGROUP: u32 = 256u;

var<workgroup> partial_sums: array<f32, 256>;

#ifdef SUBGROUPS
// Every invocation gets the sum of `x`. The order of additions depends on the subgroup size alone.
fn workgroup_sum(x: f32, local: u32, subgroup: u32, lane: u32, num_subgroups: u32) -> f32 {
    let part = subgroupAdd(x);
    // Another sum may still be read.
    workgroupBarrier();
    if lane == 0u {
        partial_sums[subgroup] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < num_subgroups; i++) {
        sum += partial_sums[i];
    }
    return sum;
}
#else
// Every invocation gets the sum of `x`.
fn workgroup_sum(x: f32, local: u32) -> f32 {
    workgroupBarrier();
    partial_sums[local] = x;
    workgroupBarrier();
    for (var n = WORKGROUP / 2u; n > 0u; n /= 2u) {
        if local < n {
            partial_sums[local] += partial_sums[local + n];
        }
        workgroupBarrier();
    }
    return partial_sums[0];
}
#endif
