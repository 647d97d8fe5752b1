//! Chances that need not be secret, and are the same again for the same seed.

/// An xorshift generator.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Those of this seed.
    pub(super) fn new(seed: u64) -> Self {
        // Of nothing the generator would make nothing for ever.
        Self(seed.max(1))
    }

    /// One of the numbers below `most`.
    pub(super) fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    /// One of these, of which there has to be one.
    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let nth = self.below(all.len() as u64);
        all[usize::try_from(nth).unwrap_or_default()]
    }
}
