//! The verdict on one recipient of one message: appended, never rewritten.
//!
//! A final mark ends a recipient for good; a later one for the same recipient is ignored.

use crate::record::{Head, Kind, Record, u16_at, u32_at, u64_at, u128_at};
use crate::table::MessageRef;

/// What became of an attempt, or of the recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The peer took responsibility. Final.
    Delivered,
    /// Another attempt follows, not before this moment (milliseconds since 1970).
    Deferred {
        /// When the next attempt is due, wall clock.
        due_wall_ms: u64,
    },
    /// Refused for good. Final.
    Bounced,
    /// Too old or too many attempts. Final.
    Expired,
    /// Kept for an operator. Final for the engine.
    Held,
    /// Withdrawn by an operator. Final.
    Cancelled,
}

/// One verdict, as it is appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which message.
    pub message: MessageRef,
    /// Which of its recipients, counted from 0.
    pub recipient: u32,
    /// Attempts made so far.
    pub attempts: u16,
    /// The verdict.
    pub verdict: Verdict,
    /// The SMTP reply code behind it, or 0.
    pub code: u16,
}

/// How many recipients of a submission ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Delivered.
    pub delivered: u32,
    /// Refused for good.
    pub bounced: u32,
    /// Given up.
    pub expired: u32,
    /// Kept for an operator.
    pub held: u32,
    /// Withdrawn.
    pub cancelled: u32,
}

/// Bytes that an accepted recipient reserves: its final mark on disk, and the intent before it.
pub(crate) const MARK_BYTES: u64 = 48 + 32;

impl Verdict {
    /// Whether no further attempt follows.
    pub fn is_final(self) -> bool {
        !matches!(self, Verdict::Deferred { .. })
    }

    fn to_u16(self) -> u16 {
        match self {
            Verdict::Deferred { .. } => 0,
            Verdict::Delivered => 1,
            Verdict::Bounced => 2,
            Verdict::Expired => 3,
            Verdict::Held => 4,
            Verdict::Cancelled => 5,
        }
    }
}

impl Tally {
    /// Bytes on disk.
    pub(crate) const BYTES: usize = 24;

    /// Recipients with a final mark.
    pub fn total(&self) -> u64 {
        [
            self.delivered,
            self.bounced,
            self.expired,
            self.held,
            self.cancelled,
        ]
        .into_iter()
        .map(u64::from)
        .sum()
    }

    /// Adds one final verdict; a deferral changes nothing.
    pub(crate) fn count(&mut self, verdict: Verdict) {
        let which = match verdict {
            Verdict::Delivered => &mut self.delivered,
            Verdict::Bounced => &mut self.bounced,
            Verdict::Expired => &mut self.expired,
            Verdict::Held => &mut self.held,
            Verdict::Cancelled => &mut self.cancelled,
            Verdict::Deferred { .. } => return,
        };
        *which = which.saturating_add(1);
    }

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let numbers = [
            self.delivered,
            self.bounced,
            self.expired,
            self.held,
            self.cancelled,
        ];
        for (to, number) in out.chunks_exact_mut(4).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Tally {
        let at = |index: usize| u32_at(bytes, index * 4);
        Tally {
            delivered: at(0),
            bounced: at(1),
            expired: at(2),
            held: at(3),
            cancelled: at(4),
        }
    }
}

/// A final mark names its submission, so that it counts even when its message's segment is long freed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FinalMark {
    pub(crate) seq: u64,
    pub(crate) submission: u128,
    pub(crate) recipient: u32,
    pub(crate) attempts: u16,
    pub(crate) code: u16,
    pub(crate) verdict: Verdict,
}

impl FinalMark {
    pub(crate) fn encode(self) -> (Head, [u8; 32]) {
        let mut out = [0; 32];
        out[0..8].copy_from_slice(&self.seq.to_le_bytes());
        out[8..24].copy_from_slice(&self.submission.to_le_bytes());
        out[24..28].copy_from_slice(&self.recipient.to_le_bytes());
        out[28..30].copy_from_slice(&self.attempts.to_le_bytes());
        out[30..32].copy_from_slice(&self.code.to_le_bytes());
        (
            Head {
                aux: self.verdict.to_u16(),
                ..Head::new(Kind::Final)
            },
            out,
        )
    }

    pub(crate) fn decode(record: &Record<'_>) -> Option<FinalMark> {
        let bytes = record.payload.first_chunk::<32>()?;
        let verdict = match record.aux {
            1 => Verdict::Delivered,
            2 => Verdict::Bounced,
            3 => Verdict::Expired,
            4 => Verdict::Held,
            5 => Verdict::Cancelled,
            _ => return None,
        };
        Some(FinalMark {
            seq: u64_at(bytes, 0),
            submission: u128_at(bytes, 8),
            recipient: u32_at(bytes, 24),
            attempts: u16_at(bytes, 28),
            code: u16_at(bytes, 30),
            verdict,
        })
    }
}

/// A deferral on disk: 40 bytes with its header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deferral {
    pub(crate) seq: u64,
    pub(crate) due_wall_ms: u64,
    pub(crate) recipient: u32,
    pub(crate) attempts: u16,
    pub(crate) code: u16,
    /// How often in a row the process ended while an attempt was active; written by recovery only.
    pub(crate) crashes: u8,
    /// The attempt's dot was sent and no reply was read: until another mark follows, the recipient may have it.
    pub(crate) in_doubt: bool,
}

/// In `aux` of a deferral, beside the count of crashes; never set in format 1.
const AUX_IN_DOUBT: u16 = 1 << 8;

impl Deferral {
    pub(crate) fn encode(self) -> (Head, [u8; 24]) {
        let mut out = [0; 24];
        out[0..8].copy_from_slice(&self.seq.to_le_bytes());
        out[8..16].copy_from_slice(&self.due_wall_ms.to_le_bytes());
        out[16..20].copy_from_slice(&self.recipient.to_le_bytes());
        out[20..22].copy_from_slice(&self.attempts.to_le_bytes());
        out[22..24].copy_from_slice(&self.code.to_le_bytes());
        let head = Head {
            aux: u16::from(self.crashes) | if self.in_doubt { AUX_IN_DOUBT } else { 0 },
            ..Head::new(Kind::Deferral)
        };
        (head, out)
    }

    pub(crate) fn decode(record: &Record<'_>) -> Option<Deferral> {
        let bytes = record.payload.first_chunk::<24>()?;
        Some(Deferral {
            seq: u64_at(bytes, 0),
            due_wall_ms: u64_at(bytes, 8),
            recipient: u32_at(bytes, 16),
            attempts: u16_at(bytes, 20),
            code: u16_at(bytes, 22),
            crashes: u8::try_from(record.aux & !AUX_IN_DOUBT).unwrap_or(u8::MAX),
            in_doubt: record.aux & AUX_IN_DOUBT != 0,
        })
    }
}

/// A dot that is about to be sent, on disk: 32 bytes with its header. Any later mark for the recipient takes its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intent {
    pub(crate) seq: u64,
    pub(crate) recipient: u32,
    pub(crate) attempt: u16,
}

impl Intent {
    pub(crate) fn encode(self) -> (Head, [u8; 16]) {
        let mut out = [0; 16];
        out[0..8].copy_from_slice(&self.seq.to_le_bytes());
        out[8..12].copy_from_slice(&self.recipient.to_le_bytes());
        out[12..14].copy_from_slice(&self.attempt.to_le_bytes());
        (Head::new(Kind::Intent), out)
    }

    pub(crate) fn decode(record: &Record<'_>) -> Option<Intent> {
        let bytes = record.payload.first_chunk::<16>()?;
        Some(Intent {
            seq: u64_at(bytes, 0),
            recipient: u32_at(bytes, 8),
            attempt: u16_at(bytes, 12),
        })
    }
}
