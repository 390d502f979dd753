//! What each octet may be part of: one look for the address that everybody has.

/// RFC 5322 §3.2.3 atext, plus the dot: what a dot-atom consists of.
pub(super) const DOT_ATOM: u8 = 1;
/// Letter, digit, hyphen or dot: what an ASCII domain consists of.
pub(super) const HOST: u8 = 2;
/// Upper-case letter.
pub(super) const UPPER: u8 = 4;

pub(super) static CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        let atext = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'/' | b'=' | b'?'
            )
            || matches!(c, b'^' | b'_' | b'`' | b'{' | b'|' | b'}' | b'~' | b'.');
        let host = c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
        table[byte] =
            (atext as u8 * DOT_ATOM) | (host as u8 * HOST) | (c.is_ascii_uppercase() as u8 * UPPER);
        byte += 1;
    }
    table
};
