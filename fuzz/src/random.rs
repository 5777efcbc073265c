//! Random numbers that a seed determines, on every machine.

/// SplitMix64: small, and good enough to choose what to change.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() >> 11) as usize % end.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of a list, which has some.
    pub fn choose<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A length, of which short ones are likelier.
    pub fn length(&mut self, most: usize) -> usize {
        let bits = self.below(usize::BITS as usize - most.leading_zeros() as usize + 1);
        self.below((1 << bits).min(most) + 1)
    }

    /// A number that code forgets: a bound, one beside it, or any of few bits.
    pub fn bound(&mut self) -> u64 {
        let power = 1u64 << self.below(64);
        match self.below(8) {
            0 => self.below(4) as u64,
            1 => power,
            2 => power - 1,
            3 => power.wrapping_add(1),
            4 => u64::MAX - self.below(16) as u64,
            5 => power.wrapping_mul(3),
            6 => self.below(300) as u64,
            _ => self.number() >> self.below(64),
        }
    }
}
