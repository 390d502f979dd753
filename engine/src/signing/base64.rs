//! Base64 (RFC 4648 §4), encoding only: signatures, body hashes, PEM.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes` in base64 with padding.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            out.push(if place <= chunk.len() {
                ALPHABET[(word >> (18 - 6 * place) & 63) as usize]
            } else {
                b'='
            });
        }
    }
}

/// `bytes` in base64 as text.
#[must_use]
pub fn encode_string(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    encode(bytes, &mut out);
    out.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::encode_string;

    #[test]
    fn matches_the_vectors_of_rfc_4648() {
        let cases = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        for (case, expected) in cases.iter().zip(expected) {
            assert_eq!(encode_string(case.as_bytes()), expected);
        }
        assert_eq!(encode_string(&[0xff, 0xfe, 0xfd]), "//79");
    }
}
