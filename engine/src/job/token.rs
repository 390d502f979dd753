//! Tokens: short names of one recipient of one job that only this run's secret can make.
//!
//! They stand in unsubscribe addresses, reverse-paths (VERP), tracking links and Message-IDs, and
//! map what comes back later (a bounce, a click, a complaint) to job and row. The same recipient
//! gets the same token on every attempt; a token made for one purpose is none for another.
//!
//! ```text
//! plain = job (8 octets) ‖ row (6 octets)
//! tag   = HMAC-SHA-256(key 1, purpose ‖ plain ‖ covered)[..16]     covered: a click's target
//! mask  = HMAC-SHA-256(key 2, purpose ‖ tag)[..14]
//! token = base32(tag ‖ plain ⊕ mask), 48 characters
//! ```
//!
//! The synthetic nonce (as in SIV, RFC 5297) keeps tokens deterministic and yet hides the row: who
//! reads his own token learns neither the size of the list nor anybody else's. Base32 in lower case
//! survives systems that change the case of a local part, and 48 characters leave 15 for the prefix
//! of a VERP address with its `+` (RFC 5321 §4.5.3.1.1). Verification takes the same time for every
//! forgery of the right length.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use crate::limits::LOCAL_PART_MAX;
use crate::mail::id::SubmissionId;

/// Characters of every token.
pub const TOKEN_LEN: usize = 48;
/// Longest prefix of a VERP address, without the `+` behind it.
pub const VERP_PREFIX_MAX: usize = LOCAL_PART_MAX - TOKEN_LEN - 1;

const TAG_LEN: usize = 16;
const PLAIN_LEN: usize = 14;
const _: () = assert!((TAG_LEN + PLAIN_LEN) * 8 == TOKEN_LEN * 5);

/// A job as tokens name it: the upper half of its submission's id, and the first 16 digits of what
/// the log shows. 64 random bits: even a hundred thousand jobs meet no second one of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl From<SubmissionId> for JobId {
    fn from(submission: SubmissionId) -> Self {
        Self((submission.0 >> 64) as u64)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Takes the recipient off the list.
    Unsubscribe,
    /// The local part of a reverse-path.
    Bounce,
    /// The address of the tracking pixel.
    Open,
    /// A link that is led over the tracking host; covers its target, so that the host redirects to
    /// nowhere else.
    Click,
    /// The left side of a Message-ID.
    MessageId,
}

impl Purpose {
    const fn octet(self) -> u8 {
        match self {
            Self::Unsubscribe => b'u',
            Self::Bounce => b'b',
            Self::Open => b'o',
            Self::Click => b'c',
            Self::MessageId => b'm',
        }
    }
}

/// The run's secret: 32 random octets that the spool keeps. Two keys are derived from it.
#[derive(Clone)]
pub struct Secret {
    tag: hmac::Key,
    mask: hmac::Key,
    digest: hmac::Key,
}

impl Secret {
    /// The secret made of these octets, which must be random and known to nobody else.
    #[must_use]
    pub fn new(octets: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, octets);
        let derive =
            |label: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, label).as_ref());
        Self {
            tag: derive(b"hikyaku token tag"),
            mask: derive(b"hikyaku token mask"),
            digest: derive(b"hikyaku digest"),
        }
    }

    /// A keyed hash for what has to be stable and unforeseeable but is never verified: boundaries,
    /// variants. `label` tells the uses apart.
    pub(super) fn digest(&self, label: u8, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.digest);
        context.update(&[label]);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    fn tag(&self, purpose: Purpose, plain: &[u8; PLAIN_LEN], covered: &[u8]) -> [u8; TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.tag);
        context.update(&[purpose.octet()]);
        context.update(plain);
        context.update(covered);
        first(context.sign().as_ref())
    }

    /// Masking is its own inverse.
    fn mask(&self, purpose: Purpose, tag: &[u8; TAG_LEN], plain: &mut [u8; PLAIN_LEN]) {
        let mut message = [0; TAG_LEN + 1];
        message[0] = purpose.octet();
        message[1..].copy_from_slice(tag);
        let mask = hmac::sign(&self.mask, &message);
        for (octet, mask) in plain.iter_mut().zip(mask.as_ref()) {
            *octet ^= mask;
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A token as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    /// The token of row `row` of `job`. Rows count below 2^48: no list is that long.
    #[must_use]
    pub fn sign(secret: &Secret, purpose: Purpose, job: JobId, row: u64) -> Self {
        Self::sign_with(secret, purpose, job, row, b"")
    }

    /// As [`Self::sign`], and `covered` (the target of a click) cannot be exchanged.
    #[must_use]
    pub fn sign_with(
        secret: &Secret,
        purpose: Purpose,
        job: JobId,
        row: u64,
        covered: &[u8],
    ) -> Self {
        let mut plain = [0; PLAIN_LEN];
        plain[..8].copy_from_slice(&job.0.to_be_bytes());
        plain[8..].copy_from_slice(&row.to_be_bytes()[2..]);
        let tag = secret.tag(purpose, &plain, covered);
        secret.mask(purpose, &tag, &mut plain);
        let mut octets = [0; TAG_LEN + PLAIN_LEN];
        octets[..TAG_LEN].copy_from_slice(&tag);
        octets[TAG_LEN..].copy_from_slice(&plain);
        Self(encode(&octets))
    }

    /// Job and row that `text` was made for, in either case of letters; nothing when it was not
    /// made for `purpose` with this secret.
    #[must_use]
    pub fn verify(secret: &Secret, purpose: Purpose, text: &str) -> Option<(JobId, u64)> {
        Self::verify_with(secret, purpose, text, b"")
    }

    /// As [`Self::verify`], for a token that covers something.
    #[must_use]
    pub fn verify_with(
        secret: &Secret,
        purpose: Purpose,
        text: &str,
        covered: &[u8],
    ) -> Option<(JobId, u64)> {
        let octets = decode(text.as_bytes())?;
        let (tag, masked) = octets.split_at(TAG_LEN);
        let tag: [u8; TAG_LEN] = first(tag);
        let mut plain: [u8; PLAIN_LEN] = first(masked);
        secret.mask(purpose, &tag, &mut plain);
        verify_slices_are_equal(&secret.tag(purpose, &plain, covered), &tag).ok()?;
        let mut row = [0; 8];
        row[2..].copy_from_slice(&plain[8..]);
        Some((
            JobId(u64::from_be_bytes(first(&plain))),
            u64::from_be_bytes(row),
        ))
    }

    /// The token of a VERP local part `prefix+TOKEN`, verified as a [`Purpose::Bounce`].
    #[must_use]
    pub fn verify_local_part(secret: &Secret, local_part: &str) -> Option<(JobId, u64)> {
        let (_, token) = local_part.rsplit_once('+')?;
        Self::verify(secret, Purpose::Bounce, token)
    }

    /// 48 characters of `a-z2-7`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first `N` octets of `octets`, which are at least so many.
fn first<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&octets[..N]);
    taken
}

/// RFC 4648 §6, in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn encode(octets: &[u8; TAG_LEN + PLAIN_LEN]) -> [u8; TOKEN_LEN] {
    let mut text = [0; TOKEN_LEN];
    for (group, text) in octets.chunks_exact(5).zip(text.chunks_exact_mut(8)) {
        let word = group
            .iter()
            .fold(0u64, |word, octet| word << 8 | u64::from(*octet));
        for (place, character) in text.iter_mut().enumerate() {
            *character = ALPHABET[(word >> (35 - 5 * place) & 31) as usize];
        }
    }
    text
}

fn decode(text: &[u8]) -> Option<[u8; TAG_LEN + PLAIN_LEN]> {
    if text.len() != TOKEN_LEN {
        return None;
    }
    let mut octets = [0; TAG_LEN + PLAIN_LEN];
    for (text, group) in text.chunks_exact(8).zip(octets.chunks_exact_mut(5)) {
        let mut word = 0u64;
        for character in text {
            let value = match character.to_ascii_lowercase() {
                letter @ b'a'..=b'z' => letter - b'a',
                digit @ b'2'..=b'7' => digit - b'2' + 26,
                _ => return None,
            };
            word = word << 5 | u64::from(value);
        }
        group.copy_from_slice(&word.to_be_bytes()[3..]);
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const PURPOSES: [Purpose; 5] = [
        Purpose::Unsubscribe,
        Purpose::Bounce,
        Purpose::Open,
        Purpose::Click,
        Purpose::MessageId,
    ];

    fn secret() -> Secret {
        Secret::new(&[7; 32])
    }

    #[test]
    fn a_token_is_the_same_in_every_release() {
        let token = Token::sign(&secret(), Purpose::Bounce, JobId(0x1234_5678), 42);
        // Mail is still under way with tokens of earlier releases: this line must never change.
        assert_eq!(
            token.as_str(),
            "6fblyinfz6jjpimmw4mxhu6ctetkagey33oicqc2hbrr7tgc"
        );
    }

    #[test]
    fn names_job_and_row_for_its_purpose_only() {
        let secret = secret();
        for purpose in PURPOSES {
            for row in [0, 1, 999_999, (1 << 48) - 1] {
                let token = Token::sign(&secret, purpose, JobId(row ^ 77), row);
                for other in PURPOSES {
                    let verified = Token::verify(&secret, other, token.as_str());
                    let expected = (other == purpose).then_some((JobId(row ^ 77), row));
                    assert_eq!(verified, expected, "{purpose:?} as {other:?}");
                }
                let shouted = token.as_str().to_ascii_uppercase();
                assert!(Token::verify(&secret, purpose, &shouted).is_some());
                let foreign = Secret::new(&[8; 32]);
                assert!(Token::verify(&foreign, purpose, token.as_str()).is_none());
            }
        }
    }

    #[test]
    fn a_click_covers_its_target() {
        let secret = secret();
        let token = Token::sign_with(&secret, Purpose::Click, JobId(1), 2, b"https://a.test/");
        let verify =
            |target: &[u8]| Token::verify_with(&secret, Purpose::Click, token.as_str(), target);
        assert_eq!(verify(b"https://a.test/"), Some((JobId(1), 2)));
        assert_eq!(verify(b"https://b.test/"), None);
        assert_eq!(verify(b""), None);
    }

    #[test]
    fn tokens_are_unique_and_neighbours_share_nothing() {
        let secret = secret();
        let tokens: HashSet<_> = (0..10_000)
            .map(|row| Token::sign(&secret, Purpose::Bounce, JobId(5), row))
            .collect();
        assert_eq!(tokens.len(), 10_000);
        let first = Token::sign(&secret, Purpose::Bounce, JobId(5), 0);
        let second = Token::sign(&secret, Purpose::Bounce, JobId(5), 1);
        let same = first
            .0
            .iter()
            .zip(&second.0)
            .filter(|(a, b)| a == b)
            .count();
        assert!(same < TOKEN_LEN / 4, "{first} {second}");
    }

    #[test]
    fn a_verp_local_part_fits_and_maps_back() {
        let secret = secret();
        let prefix = "b".repeat(VERP_PREFIX_MAX);
        let token = Token::sign(&secret, Purpose::Bounce, JobId(9), 3);
        let local_part = format!("{prefix}+{token}");
        assert_eq!(local_part.len(), LOCAL_PART_MAX);
        let upper = local_part.to_ascii_uppercase();
        assert_eq!(
            Token::verify_local_part(&secret, &upper),
            Some((JobId(9), 3))
        );
        assert_eq!(Token::verify_local_part(&secret, "bounce"), None);
        assert_eq!(Token::verify_local_part(&secret, "bounce+"), None);
    }

    proptest! {
        #[test]
        fn any_changed_character_is_refused(row in 0u64..1 << 48, place in 0..TOKEN_LEN, new in 0usize..32) {
            let secret = secret();
            let token = Token::sign(&secret, Purpose::Unsubscribe, JobId(1), row);
            let mut forged = token;
            forged.0[place] = ALPHABET[new];
            prop_assert_eq!(
                Token::verify(&secret, Purpose::Unsubscribe, forged.as_str()).is_some(),
                forged == token
            );
        }

        #[test]
        fn any_text_is_no_token(text in ".{0,60}") {
            prop_assert_eq!(Token::verify(&secret(), Purpose::Bounce, &text), None);
        }
    }
}
