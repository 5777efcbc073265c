// Pairs of token and expert in the order of experts, so that those of one expert can share its weights. One workgroup.
//
// Words of `groups`: for each of TILES tiles its expert, its first place in the order, and its pairs, up to TILE; then the order, by the
// numbers of pairs (token × ACTIVE + place among the token's experts). Tiles that nobody needs have no pairs.

override PAIRS: u32;
override ACTIVE: u32;
override EXPERTS: u32;
override ROUTING_PITCH: u32;
override TILE: u32;
override TILES: u32;

const WORKGROUP: u32 = 256u;

@group(0) @binding(0) var<storage, read> routing: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> groups: array<u32>;

var<workgroup> counts: array<atomic<u32>, EXPERTS>;

fn expert_of(pair: u32) -> u32 {
    return min(routing[pair / ACTIVE * ROUTING_PITCH + pair % ACTIVE].x, EXPERTS - 1u);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) lane: u32) {
    for (var e = lane; e < EXPERTS; e += WORKGROUP) {
        atomicStore(&counts[e], 0u);
    }
    workgroupBarrier();
    for (var pair = lane; pair < PAIRS; pair += WORKGROUP) {
        atomicAdd(&counts[expert_of(pair)], 1u);
    }
    workgroupBarrier();
    // From here on a count is the expert's next place.
    if lane == 0u {
        var place = 0u;
        var tile = 0u;
        for (var e = 0u; e < EXPERTS; e++) {
            let count = atomicLoad(&counts[e]);
            atomicStore(&counts[e], place);
            for (var first = 0u; first < count; first += TILE) {
                groups[tile * 3u] = e;
                groups[tile * 3u + 1u] = place + first;
                groups[tile * 3u + 2u] = min(TILE, count - first);
                tile += 1u;
            }
            place += count;
        }
        for (; tile < TILES; tile++) {
            groups[tile * 3u + 2u] = 0u;
        }
    }
    workgroupBarrier();
    for (var pair = lane; pair < PAIRS; pair += WORKGROUP) {
        let place = atomicAdd(&counts[expert_of(pair)], 1u);
        groups[TILES * 3u + place] = pair;
    }
}
