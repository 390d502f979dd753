//! DNS packets ↔ our own small types: the only file that names hickory.
//!
//! [`parse`] is total: any bytes give a [`Packet`] or a [`WireError`], never a panic and never more
//! work per record than a sensible name needs (hickory's names only point backwards, so a compression
//! loop ends; [`read_name`] also bounds chains of pointers).
//! Only the sections that a lookup needs are decoded. A record of a type nobody asked for is stepped
//! over by its length, so a broken TLSA beside a good MX does no harm. A name that is no host name
//! (dots or backslashes inside a label, control bytes) loses its record, not the packet.

use std::borrow::Cow;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

pub use super::packet::{Code, Data, Kind, Packet, Question, Record};

/// What we tell servers that we take over UDP: fits one unfragmented datagram (the DNS flag day
/// of 2020 settled on it).
pub const UDP_PAYLOAD_MAX: u16 = 1232;
/// Longest name as text, without the final dot (RFC 1035 §2.3.4: 255 octets on the wire).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;
/// Longest name on the wire, octets (RFC 1035 §2.3.4).
const NAME_OCTETS_MAX: usize = 255;
/// Most compression pointers in one name: as many as it can have labels.
const POINTERS_MAX: usize = 127;
const CLASS_IN: u16 = 1;

impl Kind {
    const fn record_type(self) -> RecordType {
        match self {
            Self::Mx => RecordType::MX,
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Txt => RecordType::TXT,
            Self::Ptr => RecordType::PTR,
        }
    }
}

/// Bytes that are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length, a name or a count points outside the packet or in a circle.
    #[error("malformed packet")]
    Malformed,
    /// A query, or another operation.
    #[error("not an answer to a query")]
    NotAnAnswer,
    /// None or several: no server does that for a query like ours.
    #[error("not exactly one question")]
    Questions,
}

/// Text that is no domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a domain name")]
pub struct NameError;

/// The form in which names are compared and stored: lower case, A-labels, no final dot.
///
/// # Errors
/// Empty, an empty label, longer than DNS allows, or a byte other than letters, digits, `-`, `_`.
pub fn normal_name(name: &str) -> Result<Cow<'_, str>, NameError> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let ascii = if bare.is_ascii() {
        Cow::Borrowed(bare)
    } else {
        // IDNA, so that the same domain has one spelling in caches, sites and packets.
        let mut text = Name::from_utf8(bare).map_err(|_| NameError)?.to_ascii();
        if text.ends_with('.') {
            text.pop();
        }
        Cow::Owned(text)
    };
    let good = ascii.len() <= NAME_MAX && ascii.split('.').all(|l| is_label(l.as_bytes()));
    match (good, ascii.bytes().any(|b| b.is_ascii_uppercase())) {
        (false, _) => Err(NameError),
        (true, false) => Ok(ascii),
        (true, true) => Ok(Cow::Owned(ascii.to_ascii_lowercase())),
    }
}

/// Hyphens at either end of a label and underscores are against RFC 1123 and are seen in use.
fn is_label(label: &[u8]) -> bool {
    (1..=LABEL_MAX).contains(&label.len())
        && label
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// A query with recursion desired. `name` keeps its case.
///
/// # Errors
/// When `name` cannot stand in a packet.
pub fn query(id: u16, name: &str, kind: Kind, edns: bool) -> Result<Vec<u8>, NameError> {
    let labels = name.split('.').map(str::as_bytes);
    let mut wire_name = Name::from_labels(labels).map_err(|_| NameError)?;
    wire_name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire_name, kind.record_type()));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD_MAX);
        message.set_edns(edns);
    }
    message.to_vec().map_err(|_| NameError)
}

/// Reads a server's answer.
///
/// # Errors
/// See [`WireError`]; total on any bytes.
pub fn parse(bytes: &[u8]) -> Result<Packet, WireError> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).map_err(|_| WireError::Malformed)?;
    let meta = &header.metadata;
    if meta.message_type != MessageType::Response || meta.op_code != OpCode::Query {
        return Err(WireError::NotAnAnswer);
    }
    if header.counts.queries != 1 {
        return Err(WireError::Questions);
    }
    let question = read_question(&mut decoder).ok_or(WireError::Malformed)?;
    let mut packet = Packet {
        id: meta.id,
        truncated: meta.truncation,
        lame: !meta.recursion_available && !meta.authoritative,
        authentic: meta.authentic_data,
        code: Code::NoError,
        question,
        answers: Vec::new(),
        negative_ttl: None,
    };
    let low_code = u16::from(meta.response_code.low());
    if packet.truncated {
        packet.code = code_of(low_code);
        return Ok(packet);
    }
    // The counts are the peer's; `read_record` runs out of bytes long before they could do harm.
    for _ in 0..header.counts.answers {
        let raw = read_record(&mut decoder).ok_or(WireError::Malformed)?;
        packet.answers.extend(raw.answer());
    }
    for _ in 0..header.counts.authorities {
        let raw = read_record(&mut decoder).ok_or(WireError::Malformed)?;
        if raw.record_type == RecordType::SOA && packet.negative_ttl.is_none() {
            packet.negative_ttl = raw.soa_minimum().map(|minimum| minimum.min(raw.ttl()));
        }
    }
    // The upper bits of the code are in the OPT record (RFC 6891 §6.1.3): without them BADVERS
    // would read as "no error, no records".
    let mut high_code = 0;
    for _ in 0..header.counts.additionals {
        let raw = read_record(&mut decoder).ok_or(WireError::Malformed)?;
        if raw.record_type == RecordType::OPT {
            high_code = (raw.raw_ttl >> 24) as u16;
        }
    }
    packet.code = code_of(high_code << 4 | low_code);
    Ok(packet)
}

fn code_of(code: u16) -> Code {
    match code {
        0 => Code::NoError,
        2 => Code::ServerFailure,
        3 => Code::NoSuchDomain,
        5 => Code::Refused,
        // 16 is BADVERS here: hickory reads it as BADSIG, which is TSIG's.
        1 | 4 | 16 => Code::NotUnderstood,
        _ => Code::Other(code),
    }
}

fn read_question(decoder: &mut BinDecoder<'_>) -> Option<Question> {
    let name = read_name(decoder)?;
    let record_type = RecordType::from(read_u16(decoder)?);
    let class = read_u16(decoder)?;
    let kind = match record_type {
        RecordType::MX => Some(Kind::Mx),
        RecordType::A => Some(Kind::A),
        RecordType::AAAA => Some(Kind::Aaaa),
        RecordType::TXT => Some(Kind::Txt),
        RecordType::PTR => Some(Kind::Ptr),
        _ => None,
    };
    Some(Question {
        // A name that we could not have asked for equals none that we did.
        name: host_text(&name).unwrap_or_else(|| "\\".into()),
        kind: kind.filter(|_| class == CLASS_IN),
    })
}

/// A record's frame; its data is decoded on demand.
struct RawRecord<'a> {
    owner: Name,
    record_type: RecordType,
    class: u16,
    raw_ttl: u32,
    /// At the first byte of the data, and able to follow compression pointers out of it.
    data: BinDecoder<'a>,
    length: usize,
}

fn read_record<'a>(decoder: &mut BinDecoder<'a>) -> Option<RawRecord<'a>> {
    let owner = read_name(decoder)?;
    let record_type = RecordType::from(read_u16(decoder)?);
    let class = read_u16(decoder)?;
    let raw_ttl = u32::from(read_u16(decoder)?) << 16 | u32::from(read_u16(decoder)?);
    let length = usize::from(read_u16(decoder)?);
    let data = decoder.clone(u16::try_from(decoder.index()).ok()?);
    decoder.read_slice(length).ok()?;
    Some(RawRecord {
        owner,
        record_type,
        class,
        raw_ttl,
        data,
        length,
    })
}

impl RawRecord<'_> {
    fn ttl(&self) -> u32 {
        if self.raw_ttl > i32::MAX as u32 {
            0
        } else {
            self.raw_ttl
        }
    }

    fn answer(mut self) -> Option<Record> {
        if self.class != CLASS_IN {
            return None;
        }
        let end = self.data.len().checked_sub(self.length)?;
        let data = match self.record_type {
            RecordType::A if self.length == 4 => {
                let octets: [u8; 4] = self.read_array()?;
                Data::A(octets.into())
            }
            RecordType::AAAA if self.length == 16 => {
                let octets: [u8; 16] = self.read_array()?;
                Data::Aaaa(octets.into())
            }
            RecordType::MX => {
                let preference = read_u16(&mut self.data).unwrap_or(u16::MAX);
                Data::Mx(preference, self.read_host(end))
            }
            RecordType::CNAME => Data::Cname(self.read_host(end).filter(|n| !n.is_empty())?),
            RecordType::PTR => Data::Ptr(self.read_host(end).filter(|n| !n.is_empty())?),
            RecordType::TXT => Data::Txt(self.read_strings()?),
            _ => return None,
        };
        let mut owner = host_text(&self.owner)?;
        owner.make_ascii_lowercase();
        Some(Record {
            ttl: self.ttl(),
            owner,
            data,
        })
    }

    fn soa_minimum(&self) -> Option<u32> {
        // Two names, then five numbers of 32 bits: the last one is the minimum (RFC 2308 §4).
        let last = self.data.index().checked_add(self.length)?.checked_sub(4)?;
        let mut tail = self.data.clone(u16::try_from(self.data.index()).ok()?);
        let skip = last.checked_sub(self.data.index())?;
        tail.read_slice(skip).ok()?;
        Some(u32::from(read_u16(&mut tail)?) << 16 | u32::from(read_u16(&mut tail)?))
    }

    /// `end`: how much of the packet is left where the data ends. A name may not run past it.
    fn read_host(&mut self, end: usize) -> Option<String> {
        let mut name = host_text(&read_name(&mut self.data)?)?;
        name.make_ascii_lowercase();
        (self.data.len() == end).then_some(name)
    }

    /// `None` when a string runs past the data.
    fn read_strings(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(self.length);
        let mut left = self.length;
        while left > 0 {
            let length = usize::from(read_u8(&mut self.data)?);
            left = left.checked_sub(1 + length)?;
            let part = self.data.read_slice(length).ok()?;
            text.extend_from_slice(part.unverified(/* text is judged by who asked */));
        }
        Some(text)
    }

    fn read_array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let slice = self.data.read_slice(N).ok()?;
        slice.unverified(/* any bytes are an address */).try_into().ok()
    }
}

/// A name that ends within bounds. Hickory alone follows pointers to pointers for as long as the packet
/// has them, 8,000 of them in a packet of 64 KiB, and does so for each of its 4,000 records.
fn read_name(decoder: &mut BinDecoder<'_>) -> Option<Name> {
    let mut walk = decoder.clone(u16::try_from(decoder.index()).ok()?);
    let (mut octets, mut pointers) = (0, 0);
    loop {
        let byte = read_u8(&mut walk)?;
        match byte {
            0 => break,
            1..=0x3f => {
                octets += 1 + usize::from(byte);
                walk.read_slice(byte.into()).ok()?;
            }
            0xc0.. => {
                pointers += 1;
                let here = walk.index();
                let to = u16::from_be_bytes([byte & 0x3f, read_u8(&mut walk)?]);
                if usize::from(to) >= here {
                    // Forwards, perhaps out of the packet, where `clone` would panic.
                    return None;
                }
                walk = walk.clone(to);
            }
            _ => return None,
        }
        if octets >= NAME_OCTETS_MAX || pointers > POINTERS_MAX {
            return None;
        }
    }
    Name::read(decoder).ok()
}

fn read_u8(decoder: &mut BinDecoder<'_>) -> Option<u8> {
    Some(decoder.read_u8().ok()?.unverified(/* any byte is looked at */))
}

fn read_u16(decoder: &mut BinDecoder<'_>) -> Option<u16> {
    Some(decoder.read_u16().ok()?.unverified(/* callers check what matters */))
}

/// Labels joined by dots, case kept; the root is empty. `None` for what is no host name (D12), except
/// that names of addresses may have slashes: so are zones smaller than /24 delegated (RFC 2317 §4).
fn host_text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    let reverse = name
        .iter()
        .next_back()
        .is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"));
    for label in name.iter() {
        let good = match label.iter().position(|b| *b == b'/') {
            Some(at) if reverse => is_label(&label[..at]) && is_label(&label[at + 1..]),
            _ => is_label(label),
        };
        if !good {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(std::str::from_utf8(label).ok()?);
    }
    (text.len() <= NAME_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Reply, packet};
    use std::net::Ipv4Addr;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_on_the_wire() {
        let bytes = query(0xbeef, "Ex.test", Kind::Mx, true).unwrap();
        let mut want = vec![0xbe, 0xef, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        want.extend(b"\x02Ex\x04test\x00\x00\x0f\x00\x01");
        want.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, want);
        assert_eq!(
            query(1, "-.test", Kind::A, false).unwrap().len(),
            12 + 8 + 4
        );
    }

    #[test]
    fn names() {
        for (given, normal) in [
            ("Example.COM.", "example.com"),
            ("_dmarc.a-b.test", "_dmarc.a-b.test"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(normal_name(given).unwrap(), normal, "{given}");
        }
        let long_label = "a".repeat(64);
        let long_name = ["abcdefghi"; 26].join(".");
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a\\.b",
            "a\0b",
            "a/b",
            "[192.0.2.1]",
            "a@b",
            &long_label,
            &long_name,
        ] {
            assert!(normal_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_that_are_read_and_records_that_are_stepped_over() {
        let mut reply = Reply::new(7, "d.test", Kind::Mx);
        reply.mx("d.test", 300, 10, "MX.d.test");
        reply.raw("d.test", 52, 300, &[1, 2, 3]); // a TLSA of three bytes
        reply.raw("d.test", 52, 300, &[]);
        reply.raw("d.test", 1, 300, &[1, 2, 3]); // an A of three bytes
        reply.raw("d.test", 15, 300, &[0, 1]); // an MX without a name
        reply.raw("d.test", 15, 300, b"\x00\x01\x03a.b\x00"); // a dot inside a label
        reply.raw("d.test", 15, 300, b"\x00\x01\x01a\x00junk");
        reply.mx("d.test", 0x8000_0000, 0, "");
        let got = parse(&reply.bytes()).unwrap();
        assert_eq!(got.question.name, "d.test");
        assert_eq!(got.question.kind, Some(Kind::Mx));
        let data: Vec<_> = got
            .answers
            .iter()
            .map(|r| (r.ttl, r.data.clone()))
            .collect();
        assert_eq!(
            data,
            [
                (300, Data::Mx(10, Some("mx.d.test".into()))),
                (300, Data::Mx(1, None)),
                (300, Data::Mx(1, None)),
                (300, Data::Mx(1, None)),
                (0, Data::Mx(0, Some(String::new())))
            ]
        );
    }

    #[test]
    fn a_negative_answer_carries_its_ttl_and_the_extended_code_counts() {
        let mut reply = Reply::new(7, "d.test", Kind::Mx).code(3);
        reply.soa("test", 900, 120);
        let got = parse(&reply.bytes()).unwrap();
        assert_eq!(
            (got.code, got.negative_ttl),
            (Code::NoSuchDomain, Some(120))
        );
        let mut reply = Reply::new(7, "d.test", Kind::Mx);
        reply.opt(1); // 16: BADVERS
        assert_eq!(parse(&reply.bytes()).unwrap().code, Code::NotUnderstood);
    }

    #[test]
    fn bytes_that_are_no_answer() {
        let good = Reply::new(7, "d.test", Kind::Mx).bytes();
        assert!(parse(&good).is_ok());
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut]), Err(WireError::Malformed), "{cut}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            parse(&bytes)
        };
        assert_eq!(with(2, 0), Err(WireError::NotAnAnswer));
        assert_eq!(with(5, 0), Err(WireError::Questions));
        assert_eq!(with(5, 2), Err(WireError::Questions));
        assert_eq!(with(7, 9), Err(WireError::Malformed));
    }

    #[test]
    fn compression_loops_end() {
        // The owner points at itself, at the next pointer, and forwards.
        for pointers in [&[0xc0, 12][..], &[0xc0, 14, 0xc0, 12], &[0xc0, 0xff]] {
            let mut bytes = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
            bytes.extend(pointers);
            bytes.extend([0, 15, 0, 1]);
            assert_eq!(parse(&bytes), Err(WireError::Malformed));
        }
    }

    #[test]
    fn chains_of_pointers_are_cut_short() {
        // Each pointer leads to the one before it, the first to the question's name.
        let chained = |pointers: u16| {
            let mut reply = Reply::new(7, "d.test", Kind::A);
            let start = reply.bytes().len() as u16 + 3 + 10; // behind the frame of a record of "x"
            let chain: Vec<u8> = (0..pointers)
                .map(|n| if n == 0 { 12 } else { start + 2 * (n - 1) })
                .flat_map(|at| (0xc000 | at).to_be_bytes())
                .collect();
            reply.raw("x", 99, 60, &chain);
            let mut bytes = reply.bytes();
            bytes[7] += 1;
            bytes.extend((0xc000 | (start + 2 * (pointers - 1))).to_be_bytes());
            bytes.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            parse(&bytes).map(|packet| packet.answers)
        };
        for pointers in [1, 126] {
            let answers = chained(pointers).unwrap();
            assert_eq!(answers[0].owner, "d.test", "{pointers}");
        }
        for pointers in [127, 8000] {
            assert_eq!(chained(pointers), Err(WireError::Malformed), "{pointers}");
        }
    }

    #[test]
    fn a_packet_of_64_kib_is_read_to_its_end() {
        let mut reply = Reply::new(7, "d.test", Kind::A);
        for n in 0..4000_u32 {
            reply.a("d.test", 60, Ipv4Addr::from(0xc000_0200 + n));
        }
        let bytes = reply.bytes();
        assert!((50_000..=65_535).contains(&bytes.len()), "{}", bytes.len());
        assert_eq!(parse(&bytes).unwrap().answers.len(), 4000);
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_tail_behind_a_good_head_parses_or_fails(
            counts in any::<[u8; 6]>(),
            tail in proptest::collection::vec(
                prop_oneof![Just(0xc0_u8), Just(12), Just(0), Just(1), Just(15), any::<u8>()],
                0..400,
            ),
        ) {
            let mut bytes = packet(7, "d.test", Kind::Mx);
            bytes[6..12].copy_from_slice(&counts);
            bytes.extend(tail);
            let _ = parse(&bytes);
        }

        #[test]
        fn a_query_echoes_back(id in any::<u16>(), name in "[a-zA-Z0-9_-]{1,20}(\\.[a-z]{1,10}){0,4}") {
            let mut bytes = query(id, &name, Kind::Aaaa, true).unwrap();
            bytes[2] |= 0x80;
            let got = parse(&bytes).unwrap();
            prop_assert_eq!((got.id, got.question.name), (id, name));
        }
    }
}
