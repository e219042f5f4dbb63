//! FNV-1a, 64 bits (draft-eastlake-fnv): quick and simple, for tables and names. No defence against anybody.

/// A hash that can be continued byte by byte.
#[derive(Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn extend(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)))
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}
