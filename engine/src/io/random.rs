//! The only source of randomness: identities, and seeds for the generators that pure code carries.

/// 64 random bits from the operating system.
///
/// # Panics
/// When the operating system has none, which Linux rules out after boot.
#[must_use]
pub fn next() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the kernel's random numbers are ready");
    u64::from_ne_bytes(bytes)
}
