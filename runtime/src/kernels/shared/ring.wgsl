// Columns that a sequence keeps of what goes into a convolution, in a ring: position p in slot p % RING. Needs `tokens`.

override RING: u32;
// Whether tokens of the step follow each other in one sequence, and how many there are.
override CHUNK: bool;
override TOKENS: u32;

// A token whose sequence is IDLE takes no part in the step.
const IDLE: u32 = 0xffffffffu;

// The slot of a position of the token's sequence, all sequences one after the other.
fn ring_slot(token: vec4<u32>, position: u32) -> u32 {
    return token.z * RING + position % RING;
}

// Whether the token's columns are still kept at the end of the step.
fn is_kept(t: u32) -> bool {
    if tokens[t].z == IDLE {
        return false;
    }
    return !CHUNK || t + RING >= TOKENS || tokens[min(t + RING, TOKENS - 1u)].z == IDLE;
}
