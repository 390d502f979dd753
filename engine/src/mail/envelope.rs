//! Who a message is from, who it is for, what its content is and what that needs of the peer.

use crate::time::WallTime;

/// The envelope of one message, as ingest hands it over and the spool keeps it.
///
/// Addresses were checked at the door ([`crate::ingest`]); here they are text without `<>`, CR, LF
/// or NUL. The domain of a recipient is lower-case ASCII (A-labels).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// Reverse-path without `<>`; empty for the null reverse-path.
    pub reverse_path: Box<str>,
    /// What the content is.
    pub kind: Kind,
    /// Recipients, without `<>`. Empty for a bundle, and for nothing else.
    pub recipients: Vec<Box<str>>,
    /// Which extensions the content needs.
    pub needs: ContentNeeds,
    /// `x-job`: the job that this message belongs to, for the log.
    pub job: Option<Box<str>>,
    /// `x-envid` (RFC 3461 envelope identifier).
    pub envid: Option<Box<str>>,
    /// `x-virtual-mta`: egress source or pool asked for.
    pub source: Option<Box<str>>,
    /// `x-on-doubt`: what to do with a recipient that may have been served; the run's default when absent.
    pub on_doubt: Option<OnDoubt>,
}

/// What the content of a stored message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Header and body, as they are sent.
    #[default]
    Message,
    /// What all messages of a job are made from ([`Bundle`](crate::job::Bundle)); sent to nobody.
    Bundle,
    /// Rows of a job ([`crate::job`]): row `i` is what recipient `i`'s message is made from.
    Rows,
}

/// What to do with a recipient when nobody can say whether its peer took the message: the process
/// or the connection ended between the final dot and the reply (RFC 1047).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDoubt {
    /// Try again: at least once, and the second copy is labelled as possible.
    #[default]
    Retry,
    /// Hold it for an operator: never twice.
    Hold,
}

impl OnDoubt {
    /// As settings and envelope lines write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Hold => "hold",
        }
    }
}

impl std::str::FromStr for OnDoubt {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "retry" => Ok(Self::Retry),
            "hold" => Ok(Self::Hold),
            _ => Err("must be \"retry\" or \"hold\""),
        }
    }
}

/// What the content needs of the peer; computed once, when the message is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentNeeds {
    /// An octet above 127 in the content: 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// A non-ASCII address or header: SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// A line begins with a dot, so that the content cannot be copied to DATA unchanged.
    pub dot_lines: bool,
}

/// Layout version of [`encode`] for a message that is sent as it is stored.
const VERSION: u8 = 1;
/// For everything else, so that no release that knows only the first sends a row as it lies here.
const VERSION_JOB: u8 = 2;
/// Version, needs, four lengths of optional texts, reverse-path length, recipient count, time.
const HEAD: usize = 24;
/// Length that stands for "absent".
const ABSENT: u16 = u16::MAX;

/// Appends the envelope as the spool keeps it; [`EnvelopeView`] reads it in place.
///
/// ```text
/// version u8 | needs, on-doubt and kind u8 | reverse-path u16 | job u16 | envid u16 | source u16 | ahead i16 |
/// recipients u32 | received u64 | end of each recipient u32 … | texts in the same order
/// ```
/// Integers are little-endian. Bits 3 and 4 of the second byte are 0 where nothing was said of doubt,
/// as in every envelope of before there was anything to say; bits 5 and 6 are the kind, in version 2.
/// The table of ends makes any recipient reachable in one step,
/// whether the message has one or 64 Ki of them.
pub fn encode(envelope: &Envelope, received: WallTime, out: &mut Vec<u8>) {
    encode_ahead(envelope, received, 0, out);
}

/// The same for a message whose age does not count from `received`, because the wall clock has jumped:
/// `ahead` is what [`EnvelopeView::ahead`] gives back.
pub fn encode_ahead(envelope: &Envelope, received: WallTime, ahead: i16, out: &mut Vec<u8>) {
    let needs = u8::from(envelope.needs.eight_bit)
        | u8::from(envelope.needs.smtputf8) << 1
        | u8::from(envelope.needs.dot_lines) << 2
        | envelope.on_doubt.map_or(0, |on_doubt| 1 + on_doubt as u8) << 3
        | (envelope.kind as u8) << 5;
    let version = match envelope.kind {
        Kind::Message => VERSION,
        Kind::Bundle | Kind::Rows => VERSION_JOB,
    };
    out.extend_from_slice(&[version, needs]);
    out.extend_from_slice(&length(Some(&envelope.reverse_path)).to_le_bytes());
    for text in [&envelope.job, &envelope.envid, &envelope.source] {
        out.extend_from_slice(&length(text.as_deref()).to_le_bytes());
    }
    out.extend_from_slice(&ahead.to_le_bytes());
    let count = u32::try_from(envelope.recipients.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&received.unix_millis().to_le_bytes());
    let mut end = 0_u32;
    for recipient in envelope.recipients.iter().take(count as usize) {
        end += u32::from(length(Some(recipient)));
        out.extend_from_slice(&end.to_le_bytes());
    }
    out.extend_from_slice(clip(&envelope.reverse_path).as_bytes());
    for text in [&envelope.job, &envelope.envid, &envelope.source]
        .into_iter()
        .flatten()
    {
        out.extend_from_slice(clip(text).as_bytes());
    }
    for recipient in envelope.recipients.iter().take(count as usize) {
        out.extend_from_slice(clip(recipient).as_bytes());
    }
}

/// No text of an envelope comes near this (the door checks addresses and job names); the clip only
/// keeps the arithmetic total.
fn clip(text: &str) -> &str {
    text.get(..usize::from(ABSENT) - 1).unwrap_or(text)
}

fn length(text: Option<&str>) -> u16 {
    text.map_or(ABSENT, |text| {
        u16::try_from(clip(text).len()).unwrap_or(ABSENT - 1)
    })
}

/// An encoded envelope, read where it lies.
#[derive(Debug, Clone, Copy)]
pub struct EnvelopeView<'a> {
    /// What the content is.
    pub kind: Kind,
    /// What the content needs of the peer.
    pub needs: ContentNeeds,
    /// When ingest read the message.
    pub received: WallTime,
    /// How far the time that ages are counted in was ahead of the wall clock then, in units of four
    /// hours (`shard/steady.rs`).
    pub ahead: i16,
    /// Reverse-path, empty for the null one.
    pub reverse_path: &'a str,
    /// `x-job`.
    pub job: Option<&'a str>,
    /// `x-envid`.
    pub envid: Option<&'a str>,
    /// `x-virtual-mta`.
    pub source: Option<&'a str>,
    /// `x-on-doubt`.
    pub on_doubt: Option<OnDoubt>,
    ends: &'a [u8],
    texts: &'a [u8],
}

impl<'a> EnvelopeView<'a> {
    /// Reads what [`encode`] wrote; `None` when `bytes` are anything else.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
        let kind = match (head[0], head[1] >> 5 & 3) {
            (VERSION, _) => Kind::Message,
            (VERSION_JOB, 1) => Kind::Bundle,
            (VERSION_JOB, 2) => Kind::Rows,
            _ => return None,
        };
        let count = u32::from_le_bytes(head.get(12..16)?.try_into().ok()?) as usize;
        let received = u64::from_le_bytes(head.get(16..24)?.try_into().ok()?);
        let (ends, mut rest) = rest.split_at_checked(count.checked_mul(4)?)?;
        let mut text = |len: u16| -> Option<Option<&'a str>> {
            if len == ABSENT {
                return Some(None);
            }
            let (text, after) = rest.split_at_checked(usize::from(len))?;
            rest = after;
            std::str::from_utf8(text).ok().map(Some)
        };
        let reverse_path = text(u16_at(2)?)??;
        let job = text(u16_at(4)?)?;
        let envid = text(u16_at(6)?)?;
        let source = text(u16_at(8)?)?;
        let needs = ContentNeeds {
            eight_bit: head[1] & 1 != 0,
            smtputf8: head[1] & 2 != 0,
            dot_lines: head[1] & 4 != 0,
        };
        let ahead = i16::from_le_bytes(head.get(10..12)?.try_into().ok()?);
        let on_doubt = match head[1] >> 3 & 3 {
            1 => Some(OnDoubt::Retry),
            2 => Some(OnDoubt::Hold),
            _ => None,
        };
        let received = WallTime::from_unix_millis(received);
        Some(Self {
            kind,
            needs,
            received,
            ahead,
            reverse_path,
            job,
            envid,
            source,
            on_doubt,
            ends,
            texts: rest,
        })
    }

    /// How many recipients.
    #[must_use]
    pub const fn recipients(&self) -> u32 {
        (self.ends.len() / 4) as u32
    }

    /// Recipient `index`; `None` past the last one or when the table is damaged.
    #[must_use]
    pub fn recipient(&self, index: u32) -> Option<&'a str> {
        let end = |index: usize| -> Option<usize> {
            let bytes = self.ends.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
        };
        let index = index as usize;
        let start = if index == 0 { 0 } else { end(index - 1)? };
        std::str::from_utf8(self.texts.get(start..end(index)?)?).ok()
    }
}

/// The domain of an address that passed the door: what stands behind its last `@`.
#[must_use]
pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Byte for byte what releases before jobs wrote, and read.
    #[test]
    fn a_message_lies_as_it_always_did() {
        let envelope = Envelope {
            reverse_path: "a@b.test".into(),
            recipients: vec!["c@d.test".into()],
            on_doubt: Some(OnDoubt::Hold),
            ..Envelope::default()
        };
        let mut bytes = Vec::new();
        encode(&envelope, WallTime::from_unix_millis(5), &mut bytes);
        let absent = [0xff; 6];
        let expected = [
            &[1, 0x10, 8, 0][..],
            &absent,
            &[0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0],
            b"a@b.testc@d.test",
        ];
        assert_eq!(bytes, expected.concat());
        // Nobody has ever set these bits; a message stays one.
        bytes[1] |= 0x60;
        let view = EnvelopeView::parse(&bytes).expect("readable");
        assert_eq!(view.kind, Kind::Message);
        // An earlier release reads version 1 only: it holds what it would otherwise send raw.
        bytes.clear();
        let rows = Envelope {
            kind: Kind::Rows,
            ..envelope
        };
        encode(&rows, WallTime::from_unix_millis(5), &mut bytes);
        assert_eq!(bytes[..2], [2, 0x50]);
        for byte in [0x10, 0x70] {
            bytes[1] = byte;
            assert!(EnvelopeView::parse(&bytes).is_none());
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back(
            reverse_path in "[a-z@.]{0,40}",
            recipients in proptest::collection::vec("[a-zé@.]{1,40}", 1..20),
            job in proptest::option::of("[a-z0-9]{0,20}"),
            envid in proptest::option::of("[a-z0-9]{0,20}"),
            source in proptest::option::of("[a-z0-9]{0,20}"),
            bits in 0_u8..8,
            on_doubt in proptest::option::of(any::<bool>()),
            received in any::<u64>(),
            kind in prop_oneof![Just(Kind::Message), Just(Kind::Bundle), Just(Kind::Rows)],
        ) {
            let needs = ContentNeeds { eight_bit: bits & 1 != 0, smtputf8: bits & 2 != 0, dot_lines: bits & 4 != 0 };
            let on_doubt = on_doubt.map(|hold| if hold { OnDoubt::Hold } else { OnDoubt::Retry });
            let envelope = Envelope {
                reverse_path: reverse_path.into(),
                kind,
                recipients: recipients.iter().map(|r| r.as_str().into()).collect(),
                needs,
                job: job.map(Into::into),
                envid: envid.map(Into::into),
                source: source.map(Into::into),
                on_doubt,
            };
            let mut bytes = Vec::new();
            encode(&envelope, WallTime::from_unix_millis(received), &mut bytes);
            let view = EnvelopeView::parse(&bytes).expect("readable");
            prop_assert_eq!((view.needs, view.kind), (needs, kind));
            prop_assert_eq!(view.on_doubt, on_doubt);
            prop_assert_eq!(view.received.unix_millis(), received);
            prop_assert_eq!(view.reverse_path, &*envelope.reverse_path);
            prop_assert_eq!(view.job, envelope.job.as_deref());
            prop_assert_eq!(view.envid, envelope.envid.as_deref());
            prop_assert_eq!(view.source, envelope.source.as_deref());
            prop_assert_eq!(view.recipients() as usize, recipients.len());
            for (index, recipient) in recipients.iter().enumerate() {
                prop_assert_eq!(view.recipient(index as u32), Some(recipient.as_str()));
            }
            prop_assert_eq!(view.recipient(recipients.len() as u32), None);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(view) = EnvelopeView::parse(&bytes) {
                for index in 0..view.recipients().min(100) {
                    let _ = view.recipient(index);
                }
            }
        }
    }
}
