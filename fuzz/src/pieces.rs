//! Cuts of a byte string that depend on nothing but the bytes, so that a seed stays a plain file.

use xxhash_rust::xxh3::xxh3_64;

/// The bytes in up to nine pieces, some of them perhaps empty.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    let mut state = xxh3_64(bytes);
    let mut cuts: Vec<usize> = (0..state % 8)
        .map(|_| {
            state = state.rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (state >> 16) as usize % (bytes.len() + 1)
        })
        .chain([0, bytes.len()])
        .collect();
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}

/// The bytes one by one.
pub(crate) fn octets(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

/// Reads an input from its front; zeros when it is used up.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.take(8);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }
}
