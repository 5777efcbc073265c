// The experts of each token, from a router's logits, and their weights; `Experts` of the spec has the formulas. A workgroup
// takes a token. Each expert counts those that go before it: there are few, and nobody waits for anybody.
//
// Flags: BIAS, for a bias of the choice.

// Experts to choose among, of which so many are chosen, and those behind them, which every token uses; GATED: with a weight of their own.
override EXPERTS: u32;
override ACTIVE: u32;
override SHARED: u32;
override GATED: u32;
// Values from one token's logits to the next one's, pairs from one token's routing to the next one's.
override PITCH: u32;
override ROUTING_PITCH: u32;
override SIGMOID: u32;
override NORMALIZED: u32;
override EPSILON: f32;
override SCALE: f32;

const WORKGROUP: u32 = 64u;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
#ifdef BIAS
@group(0) @binding(1) var<storage, read> selection_bias: array<f32>;
#endif
// Expert and weight, as bits.
@group(0) @binding(2) var<storage, read_write> routing: array<vec2<u32>>;

var<workgroup> keys: array<f32, EXPERTS>;
var<workgroup> scores: array<f32, EXPERTS>;
var<workgroup> chosen: array<u32, ACTIVE>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = workgroup.x * PITCH;
    for (var e = lane; e < EXPERTS; e += WORKGROUP) {
        keys[e] = logits[first + e];
    }
    // Rows of idle tokens may hold anything, and an expert must be one all the same.
    for (var e = lane; e < ACTIVE; e += WORKGROUP) {
        chosen[e] = e;
    }
    workgroupBarrier();
    var largest = keys[0];
    for (var e = 1u; e < EXPERTS; e++) {
        largest = max(largest, keys[e]);
    }
    for (var e = lane; e < EXPERTS; e += WORKGROUP) {
        let logit = keys[e];
        if SIGMOID == 1u {
            scores[e] = 1.0 / (1.0 + exp(clamp(-logit, -80.0, 80.0)));
        } else {
            scores[e] = exp(max(logit - largest, -80.0));
        }
    }
    workgroupBarrier();
#ifdef BIAS
    for (var e = lane; e < EXPERTS; e += WORKGROUP) {
        keys[e] = scores[e] + selection_bias[e];
    }
    workgroupBarrier();
#endif
    for (var e = lane; e < EXPERTS; e += WORKGROUP) {
        let key = keys[e];
        var before = 0u;
        for (var other = 0u; other < EXPERTS; other++) {
            let its = keys[other];
            before += select(0u, 1u, its > key || (its == key && other < e));
        }
        if before < ACTIVE {
            chosen[before] = e;
        }
    }
    workgroupBarrier();
    var total = 1.0;
    if NORMALIZED == 1u {
        total = EPSILON;
        for (var i = 0u; i < ACTIVE; i++) {
            total += scores[chosen[i]];
        }
    } else if SIGMOID == 0u {
        total = 0.0;
        for (var e = 0u; e < EXPERTS; e++) {
            total += scores[e];
        }
    }
    for (var i = lane; i < ACTIVE; i += WORKGROUP) {
        let weight = SCALE * (scores[chosen[i]] / total);
        routing[workgroup.x * ROUTING_PITCH + i] = vec2(chosen[i], bitcast<u32>(weight));
    }
    for (var i = lane; i < SHARED; i += WORKGROUP) {
        var weight = 1.0;
        if GATED == 1u {
            weight = 1.0 / (1.0 + exp(clamp(-logits[first + EXPERTS], -80.0, 80.0)));
        }
        routing[workgroup.x * ROUTING_PITCH + ACTIVE + i] = vec2(EXPERTS + i, bitcast<u32>(weight));
    }
}
