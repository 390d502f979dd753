//! What a name server sends.

use std::sync::Arc;

use hikyaku::dns::site::{OwnAddresses, prohibited};
use hikyaku::dns::wire::{self, Data, Packet};
use hikyaku::dns::{Config, Lookup, LookupAction};
use hikyaku::time::Instant;

use crate::pieces::Reader;

/// Longest name as text (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;
/// Octets of a header.
const HEADER: usize = 12;

/// Reading is total and bounded by the packet. As answers to a lookup the same bytes end it, with few
/// questions asked and hosts that mail may reach.
pub fn dns_answer(data: &[u8]) {
    if let Ok(packet) = wire::parse(data) {
        check_packet(&packet, data.len());
    }
    // A server that echoes what it was asked, so that the rest of its answer counts.
    if let Some((&choice, rest)) = data.split_first() {
        lookup(choice, rest);
    }
}

fn check_packet(packet: &Packet, bytes: usize) {
    assert!(packet.question.name.len() <= NAME_MAX);
    assert!(!packet.truncated || packet.answers.is_empty());
    // A record is at least the root, type, class, TTL and length.
    assert!(packet.answers.len() <= bytes / 11);
    assert!(packet.negative_ttl.is_none_or(|ttl| ttl <= i32::MAX as u32));
    for record in &packet.answers {
        assert!(record.ttl <= i32::MAX as u32);
        check_name(&record.owner);
        match &record.data {
            Data::Mx(_, Some(name)) | Data::Cname(name) | Data::Ptr(name) => check_name(name),
            Data::Mx(_, None) | Data::A(_) | Data::Aaaa(_) => {}
            Data::Txt(text) => assert!(text.len() <= bytes),
        }
    }
}

/// The root, or a name in the form that the rest of the engine compares.
fn check_name(name: &str) {
    assert!(name.len() <= NAME_MAX);
    // Zones smaller than /24 (RFC 2317) have slashes inside labels.
    let bare = name.replace('/', "");
    let name = if name.ends_with("arpa") { &bare } else { name };
    assert!(
        name.is_empty() || wire::normal_name(name).as_deref() == Ok(name),
        "{name:?}"
    );
}

fn lookup(choice: u8, data: &[u8]) {
    let own = OwnAddresses::default();
    let config = Config {
        servers: 1 + usize::from(choice & 1),
        mix_case: choice & 2 != 0,
        hosts_max: 4,
        addresses_max: 3,
        ..Config::default()
    };
    let (servers, rounds) = (config.servers, config.rounds as usize);
    let config = Arc::new(config);
    let start = Instant::from_nanos(1);
    let mut now = start;
    let mut lookup = Lookup::new(now, "d.test", &config, u64::from(choice));
    let mut input = Reader(data);
    // One MX and two per host; each may follow CNAMEs, change to TCP, lose EDNS, and be tried again.
    let questions = 1 + 2 * config.hosts_max;
    let sends_max = questions * 12 * (2 + servers * rounds);
    for _ in 0..=2 * sends_max {
        match lookup.poll(now) {
            LookupAction::Send {
                server,
                packet,
                query,
                until,
                ..
            } => {
                assert!(server < servers && until > now && packet.len() < 512);
                if input.is_empty() || input.byte() & 7 == 7 {
                    lookup.handle_failure(now, query, "gone");
                    continue;
                }
                let answer = answer_to(&packet, &mut input);
                if let Ok(parsed) = wire::parse(&answer) {
                    check_packet(&parsed, answer.len());
                }
                if !lookup.handle_answer(now, query, &answer) {
                    assert!(
                        !lookup.handle_answer(now, query, b""),
                        "rubbish is never taken"
                    );
                    lookup.handle_failure(now, query, "gone");
                }
                assert!(!lookup.handle_answer(now, query, &answer), "taken once");
            }
            LookupAction::Wait { until } => {
                assert!(until > now && until < Instant::FAR_FUTURE);
                now = until;
            }
            LookupAction::Done(answer) => {
                assert!(now <= start.after(config.deadline));
                match answer.result {
                    Err(failure) => {
                        assert!(
                            failure.text.len() < 4096 && !failure.text.contains(char::is_control)
                        );
                        assert_eq!(
                            failure.kind.enhanced_code().class == 5,
                            failure.is_permanent()
                        );
                    }
                    Ok(hosts) => {
                        assert!((1..=config.hosts_max).contains(&hosts.hosts.len()));
                        assert!(hosts.hosts.is_sorted_by_key(|host| host.preference));
                        for host in &hosts.hosts {
                            check_name(&host.name);
                            assert!((1..=config.addresses_max).contains(&host.addresses.len()));
                            for &address in &host.addresses {
                                assert_eq!(prohibited(address, &own), None, "{address}");
                            }
                        }
                    }
                }
                return;
            }
        }
    }
    panic!("the lookup does not end");
}

/// Header and question as a server would echo them, with flags, counts and records from the input.
fn answer_to(query: &[u8], input: &mut Reader<'_>) -> Vec<u8> {
    let name = query[HEADER..]
        .iter()
        .position(|&byte| byte == 0)
        .expect("a name ends");
    let mut answer = query[..HEADER + name + 5].to_vec();
    let flags = input.byte();
    answer[2] = 0x81 | (flags & 0x10) >> 3;
    answer[3] = 0x80 | (flags & 0x0f);
    answer[6..HEADER].fill(0);
    let counts = [input.byte() % 8, input.byte() % 4, input.byte() % 4];
    for (at, count) in [7, 9, 11].into_iter().zip(counts) {
        answer[at] = count;
    }
    for _ in 0..counts.iter().sum() {
        put_record(&mut answer, input);
    }
    answer
}

/// A record in good shape as to its frame; what it says is the input's.
fn put_record(answer: &mut Vec<u8>, input: &mut Reader<'_>) {
    const NAMES: [&[u8]; 8] = [
        b"\xc0\x0c",
        b"\x00",
        b"\x01a\xc0\x0c",
        b"\x02mx\x01d\x04test\x00",
        b"\x01d\x04test\x00",
        b"\x03a.b\x00",
        b"\x01A\x04TEST\x00",
        b"\xc0\x20",
    ];
    let shape = input.byte();
    answer.extend(NAMES[usize::from(shape % 8)]);
    let kind: u16 = match shape / 8 % 8 {
        0 | 1 => 15,
        2 | 3 => 1,
        4 => 28,
        5 => 5,
        6 => 6,
        _ => input.u16(),
    };
    answer.extend(kind.to_be_bytes());
    answer.extend([0, if shape & 0x40 == 0 { 1 } else { input.byte() }]);
    answer.extend([input.byte() & 0x81, 0, input.byte(), 60]);
    let mut data = Vec::new();
    match (kind, shape & 0x80) {
        (15, 0) => {
            data.extend([0, input.byte()]);
            data.extend(NAMES[usize::from(input.byte() % 8)]);
        }
        (5, 0) => data.extend(NAMES[usize::from(input.byte() % 8)]),
        (1, 0) => data.extend([input.byte(), input.byte(), 1, 1]),
        (28, 0) => {
            data.extend([input.byte(), input.byte()]);
            data.extend([0; 13]);
            data.push(input.byte());
        }
        _ => {
            let length = input.byte() % 40;
            data.extend(input.take(length.into()));
        }
    }
    answer.extend((data.len() as u16).to_be_bytes());
    answer.extend(data);
}
