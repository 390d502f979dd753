//! Lookups against zones written as text, under a clock that only the test moves.

use crate::dns::{OwnAddresses, ProviderRules};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::super::testing::Reply;
use super::*;

const START: Instant = Instant::from_nanos(1_000_000_000);

/// `owner TYPE data` a line, as in a zone file, with TTL 300 unless `ttl=` says otherwise; the types
/// SERVFAIL, REFUSED, SILENT, REFERRAL stand for servers that do so. Names that no line begins with
/// do not exist; a name that has only other types has no data.
struct Zone<'a> {
    lines: Vec<Vec<&'a str>>,
}

impl<'a> Zone<'a> {
    fn new(text: &'a str) -> Self {
        let lines = text
            .split('|')
            .map(|line| line.split_whitespace().collect());
        Self {
            lines: lines.filter(|line: &Vec<&str>| !line.is_empty()).collect(),
        }
    }

    /// What a recursive server answers, CNAME records followed; `None` is silence.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let mut asked = query.to_vec();
        asked[2] |= 0x80;
        let asked = wire::parse(&asked).unwrap().question;
        let kind = asked.kind.unwrap();
        let mut reply = Reply::to(query);
        let mut owner = asked.name.to_ascii_lowercase();
        let (mut exists, mut found) = (false, false);
        for _ in 0..20 {
            let mut alias = None;
            exists = false;
            for line in self.lines.iter().filter(|line| line[0] == owner) {
                exists = true;
                let ttl = line.last().and_then(|word| word.strip_prefix("ttl="));
                let ttl = ttl.map_or(300, |ttl| ttl.parse().unwrap());
                match (line[1], kind) {
                    ("SILENT", _) => return None,
                    ("SERVFAIL", _) => return Some(reply.code(2).bytes()),
                    ("REFUSED", _) => return Some(reply.code(5).bytes()),
                    ("REFERRAL", _) => {
                        let mut bytes = reply.bytes();
                        bytes[3] &= 0x7f;
                        return Some(bytes);
                    }
                    ("SILENT-AAAA", Kind::Aaaa) => return None,
                    ("CNAME", _) => {
                        reply.cname(&owner, ttl, line[2]);
                        alias = Some(line[2].to_owned());
                    }
                    ("MX", Kind::Mx) => {
                        let host = if line[3] == "." { "" } else { line[3] };
                        reply.mx(&owner, ttl, line[2].parse().unwrap(), host);
                        found = true;
                    }
                    ("A", Kind::A) | ("AAAA", Kind::Aaaa) => {
                        reply.address(&owner, ttl, line[2].parse().unwrap());
                        found = true;
                    }
                    _ => {}
                }
            }
            match alias {
                Some(target) => owner = target,
                None => break,
            }
        }
        if !found {
            reply.soa("test", 900, 120);
        }
        let code = if exists { 0 } else { 3 };
        Some(reply.code(code).bytes())
    }
}

/// Runs a lookup to its end with `serve(server, via, packet)`; also gives the time it took.
fn run(
    mut lookup: Lookup,
    mut serve: impl FnMut(usize, Via, &[u8]) -> Option<Vec<u8>>,
) -> (Answer, Duration) {
    let mut now = START;
    for _ in 0..10_000 {
        match lookup.poll(now) {
            LookupAction::Done(answer) => return (answer, now.since(START)),
            LookupAction::Wait { until } => {
                assert!(until > now, "a wait that is over");
                now = until;
            }
            LookupAction::Send {
                server,
                via,
                packet,
                query,
                until,
            } => {
                assert!(until > now);
                if let Some(answer) = serve(server, via, &packet) {
                    assert!(lookup.handle_answer(now, query, &answer));
                    assert!(!lookup.handle_answer(now, query, &answer), "taken twice");
                }
            }
        }
    }
    panic!("a lookup without end");
}

fn config() -> Config {
    Config {
        servers: 2,
        own: OwnAddresses::new(["198.51.100.99".parse().unwrap()], ["own.test"]),
        rules: ProviderRules::new(&[(".provider.test", "provider")]).unwrap(),
        ..Config::default()
    }
}

fn mail(domain: &str, config: Config) -> Lookup {
    Lookup::new(START, domain, &Arc::new(config), 42)
}

/// `site: host preference address,address; …` or the kind of failure.
fn show(answer: &Answer) -> String {
    match &answer.result {
        Err(failure) => format!("{:?}", failure.kind),
        Ok(hosts) => {
            let mut all: Vec<String> = hosts
                .hosts
                .iter()
                .map(|host| {
                    let mut addresses: Vec<_> =
                        host.addresses.iter().map(ToString::to_string).collect();
                    addresses.sort();
                    format!("{} {} {}", host.name, host.preference, addresses.join(","))
                })
                .collect();
            all.sort();
            format!("{}: {}", hosts.site, all.join("; "))
        }
    }
}

fn check(domain: &str, zone: &str, want: &str) {
    let zone = Zone::new(zone);
    let (answer, _) = run(mail(domain, config()), |_, _, packet| zone.answer(packet));
    assert_eq!(show(&answer), want, "{domain}: {:?}", answer.result);
}

#[test]
fn mx_and_no_mx() {
    for (zone, want) in [
        (
            "d.test MX 10 mx.d.test | mx.d.test A 192.0.2.1 | mx.d.test AAAA 2001:db8::1",
            "mx.d.test: mx.d.test 10 192.0.2.1,2001:db8::1",
        ),
        (
            "d.test MX 10 b.test | d.test MX 10 a.test | d.test MX 20 c.test
             | a.test A 192.0.2.1 | b.test A 192.0.2.2 | c.test A 192.0.2.3",
            "a.test,b.test: a.test 10 192.0.2.1; b.test 10 192.0.2.2; c.test 20 192.0.2.3",
        ),
        // The same host twice, and once as the final dot and upper case would have it.
        (
            "d.test MX 20 a.test | d.test MX 10 a.test | a.test A 192.0.2.1 | a.test A 192.0.2.1",
            "a.test: a.test 10 192.0.2.1",
        ),
        (
            "d.test MX 10 x.provider.test | x.provider.test A 192.0.2.1",
            "provider: x.provider.test 10 192.0.2.1",
        ),
        // Implicit MX.
        ("d.test A 192.0.2.1", "d.test: d.test 0 192.0.2.1"),
        ("d.test AAAA 2001:db8::1", "d.test: d.test 0 2001:db8::1"),
        // A domain with MX records has no implicit one (RFC 5321 section 5.1).
        ("d.test MX 10 gone.test | d.test A 192.0.2.1", "NoAddress"),
        ("d.test TXT x", "NoAddress"),
        ("other.test A 192.0.2.1", "NoSuchDomain"),
        ("d.test MX 0 .", "NullMx"),
        ("d.test MX 0 . | d.test A 192.0.2.1", "NullMx"),
        ("d.test MX 0 . | d.test MX 5 .", "NullMx"),
        // Mixed with others it is ignored.
        (
            "d.test MX 0 . | d.test MX 10 a.test | a.test A 192.0.2.1",
            "a.test: a.test 10 192.0.2.1",
        ),
        // A host that is gone beside one that is there.
        (
            "d.test MX 10 gone.test | d.test MX 20 a.test | a.test A 192.0.2.1",
            "gone.test: a.test 20 192.0.2.1",
        ),
    ] {
        check("d.test", zone, want);
    }
    check(
        "D.Test.",
        "d.test A 192.0.2.1",
        "d.test: d.test 0 192.0.2.1",
    );
    check(
        "bücher.test",
        "xn--bcher-kva.test A 192.0.2.1",
        "xn--bcher-kva.test: xn--bcher-kva.test 0 192.0.2.1",
    );
    check("a..b", "", "BadName");
    check("", "", "BadName");
    check("[192.0.2.1]", "", "192.0.2.1: 192.0.2.1 0 192.0.2.1");
    check(
        "[ipv6:2001:db8::1]",
        "",
        "2001:db8::1: 2001:db8::1 0 2001:db8::1",
    );
    check("[127.0.0.1]", "", "Prohibited");
    check("[198.51.100.99]", "", "MailLoop");
    check("[2001:db8::1]", "", "BadName");
}

#[test]
fn aliases() {
    for (zone, want) in [
        (
            "d.test CNAME e.test | e.test MX 1 a.test | a.test A 192.0.2.1",
            "a.test: a.test 1 192.0.2.1",
        ),
        (
            "d.test CNAME e.test | e.test A 192.0.2.1",
            "e.test: e.test 0 192.0.2.1",
        ),
        ("d.test CNAME e.test", "NoSuchDomain"),
        ("d.test CNAME e.test | e.test TXT x", "NoAddress"),
        ("d.test CNAME e.test | e.test CNAME d.test", "CnameLoop"),
        ("d.test CNAME d.test", "CnameLoop"),
        // An MX that points at an alias: one hop, not two.
        (
            "d.test MX 1 a.test | a.test CNAME b.test | b.test A 192.0.2.1",
            "a.test: a.test 1 192.0.2.1",
        ),
        (
            "d.test MX 1 a.test | a.test CNAME b.test | b.test CNAME c.test | c.test A 192.0.2.1",
            "CnameLoop",
        ),
    ] {
        check("d.test", zone, want);
    }
    let chain = |hops: usize| {
        let links: Vec<_> = (0..hops)
            .map(|n| format!("n{n}.test CNAME n{}.test", n + 1))
            .collect();
        format!("{} | n{hops}.test A 192.0.2.1", links.join(" | "))
    };
    check("n0.test", &chain(8), "n8.test: n8.test 0 192.0.2.1");
    check("n0.test", &chain(9), "CnameLoop");
    check("n0.test", &chain(19), "CnameLoop");
}

#[test]
fn a_chain_that_the_server_leaves_to_us_is_followed_to_its_limit() {
    // Each answer holds one CNAME record and nothing else.
    let serve = |last: u32| {
        move |_: usize, _: Via, query: &[u8]| {
            let mut asked = query.to_vec();
            asked[2] |= 0x80;
            let question = wire::parse(&asked).unwrap().question;
            let n: u32 = question.name[1..question.name.len() - 5].parse().unwrap();
            let mut reply = Reply::to(query);
            if n < last {
                reply.cname(&question.name, 60, &format!("n{}.test", n + 1));
            } else if question.kind == Some(Kind::A) {
                reply.a(&question.name, 60, Ipv4Addr::new(192, 0, 2, 1));
            }
            Some(reply.bytes())
        }
    };
    let (answer, _) = run(mail("n0.test", config()), serve(8));
    assert_eq!(show(&answer), "n8.test: n8.test 0 192.0.2.1");
    let (answer, _) = run(mail("n0.test", config()), serve(9));
    assert_eq!(show(&answer), "CnameLoop");
}

#[test]
fn trouble_that_may_pass_never_bounces() {
    for zone in [
        "d.test SILENT",
        "d.test SERVFAIL",
        "d.test REFUSED",
        "d.test REFERRAL",
        "d.test MX 1 a.test | a.test SERVFAIL",
        "d.test MX 1 a.test | d.test MX 2 gone.test | a.test SILENT",
        "d.test MX 1 a.test | d.test MX 2 b.test | a.test SILENT | b.test A 127.0.0.1",
        "d.test MX 1 a.test | d.test MX 2 own.test | a.test SILENT",
    ] {
        check("d.test", zone, "Temporary");
    }
    let none = Config {
        servers: 0,
        ..config()
    };
    let (answer, _) = run(mail("d.test", none), |_, _, _| None);
    assert_eq!(show(&answer), "Temporary");
}

#[test]
fn one_host_in_trouble_does_not_hide_the_others() {
    let zone = "d.test MX 1 a.test | d.test MX 2 b.test | a.test SERVFAIL | b.test A 192.0.2.2";
    check("d.test", zone, "a.test: b.test 2 192.0.2.2");
    let zone = Zone::new(zone);
    let (answer, _) = run(mail("d.test", config()), |_, _, packet| zone.answer(packet));
    assert_eq!(
        answer.ttl,
        Duration::ZERO,
        "part of the truth is kept for the shortest time"
    );
    check(
        "d.test",
        "d.test A 192.0.2.1 | d.test SILENT-AAAA",
        "d.test: d.test 0 192.0.2.1",
    );
}

#[test]
fn addresses_out_of_bounds() {
    for (zone, want) in [
        ("d.test A 127.0.0.1", "Prohibited"),
        (
            "d.test A 10.0.0.1 | d.test AAAA ::ffff:192.168.0.1",
            "Prohibited",
        ),
        (
            "d.test A 10.0.0.1 | d.test A 192.0.2.1",
            "d.test: d.test 0 192.0.2.1",
        ),
        (
            "d.test MX 1 a.test | a.test A 169.254.169.254",
            "Prohibited",
        ),
        ("d.test A 198.51.100.99", "MailLoop"),
        // We are one of the hosts: only better ones may be used.
        (
            "d.test MX 1 a.test | d.test MX 2 own.test | d.test MX 2 b.test | d.test MX 3 c.test
             | a.test A 192.0.2.1 | b.test A 192.0.2.2 | c.test A 192.0.2.3",
            "a.test: a.test 1 192.0.2.1",
        ),
        (
            "d.test MX 1 own.test | d.test MX 2 a.test | a.test A 192.0.2.1",
            "MailLoop",
        ),
        (
            "d.test MX 1 a.test | d.test MX 2 b.test | d.test MX 3 c.test
             | a.test A 192.0.2.1 | b.test A 198.51.100.99 | c.test A 192.0.2.3",
            "a.test: a.test 1 192.0.2.1",
        ),
        (
            "d.test MX 1 a.test | d.test MX 2 b.test | a.test A 198.51.100.99 | b.test A 192.0.2.2",
            "MailLoop",
        ),
    ] {
        check("d.test", zone, want);
    }
    check("own.test", "own.test A 192.0.2.1", "MailLoop");
    let zone = Zone::new("d.test A 127.0.0.1");
    let open = Config {
        allow_prohibited: true,
        ..config()
    };
    let (answer, _) = run(mail("d.test", open), |_, _, packet| zone.answer(packet));
    assert_eq!(show(&answer), "d.test: d.test 0 127.0.0.1");
}

#[test]
fn a_routes_target_is_looked_up_without_mx_and_without_the_deny_list() {
    let zone = Zone::new("h.test MX 1 a.test | h.test A 127.0.0.1");
    let lookup = Lookup::for_host(START, "h.test", &Arc::new(config()), 1);
    let (answer, _) = run(lookup, |_, _, packet| zone.answer(packet));
    assert_eq!(show(&answer), "h.test: h.test 0 127.0.0.1");
    let lookup = Lookup::for_host(START, "gone.test", &Arc::new(config()), 1);
    let (answer, _) = run(lookup, |_, _, packet| zone.answer(packet));
    assert_eq!(show(&answer), "NoAddress");
}

#[test]
fn times_to_live() {
    for (zone, seconds) in [
        (
            "d.test MX 1 a.test ttl=500 | a.test A 192.0.2.1 ttl=400",
            400,
        ),
        ("d.test MX 1 a.test ttl=0 | a.test A 192.0.2.1 ttl=400", 0),
        (
            "d.test MX 1 a.test ttl=2147483648 | a.test A 192.0.2.1 ttl=400",
            0,
        ),
        (
            "d.test MX 1 a.test ttl=2147483647 | a.test A 192.0.2.1 ttl=2147483647",
            2_147_483_647,
        ),
        (
            "d.test CNAME e.test ttl=30 | e.test MX 1 a.test ttl=500 | a.test A 192.0.2.1",
            30,
        ),
        // "There is no MX" holds for 120 s, by the SOA.
        ("d.test A 192.0.2.1 ttl=400", 120),
        ("e.test A 192.0.2.1", 120),
        ("d.test MX 0 . ttl=700", 700),
        ("d.test SERVFAIL", 0),
    ] {
        let zone_of = Zone::new(zone);
        let (answer, _) = run(mail("d.test", config()), |_, _, packet| {
            zone_of.answer(packet)
        });
        assert_eq!(answer.ttl.as_secs(), seconds, "{zone}");
    }
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let zone = Zone::new("d.test MX 1 a.test | a.test A 192.0.2.1");
    let mut seen = Vec::new();
    let (answer, took) = run(mail("d.test", config()), |server, via, packet| {
        seen.push((server, via));
        match via {
            Via::Udp => Some(Reply::to(packet).truncated().bytes()),
            Via::Tcp => zone.answer(packet),
        }
    });
    assert_eq!(show(&answer), "a.test: a.test 1 192.0.2.1");
    assert_eq!(
        &seen[..2],
        [(0, Via::Udp), (0, Via::Tcp)],
        "the same server"
    );
    assert_eq!(took, Duration::ZERO);
    // Truncated over TCP as well, and TCP that is refused: bounded, temporary.
    let (answer, _) = run(mail("d.test", config()), |_, _, packet| {
        Some(Reply::to(packet).truncated().bytes())
    });
    assert_eq!(show(&answer), "Temporary");
}

#[test]
fn what_is_not_the_answer_is_dropped() {
    let mut lookup = mail("d.test", config());
    let LookupAction::Send { packet, query, .. } = lookup.poll(START) else {
        panic!("no query");
    };
    let good = {
        let mut reply = Reply::to(&packet);
        reply.mx("d.test", 300, 0, "");
        reply
    };
    let mut wrong_id = good.bytes();
    wrong_id[1] ^= 1;
    let id = u16::from_be_bytes([packet[0], packet[1]]);
    let cut = &good.bytes()[..20];
    for bad in [
        &wrong_id[..],
        &Reply::new(id, "e.test", Kind::Mx).bytes(),
        &Reply::new(id, "d.test", Kind::A).bytes(),
        &packet,
        cut,
        &[],
    ] {
        assert!(!lookup.handle_answer(START, query, bad), "{bad:?}");
    }
    assert!(
        !lookup.handle_answer(START, QueryId(77), &good.bytes()),
        "another query's"
    );
    assert!(matches!(lookup.poll(START), LookupAction::Wait { .. }));
    let late = START.after(Duration::from_secs(2));
    assert!(
        !lookup.handle_answer(late, query, &good.bytes()),
        "too late"
    );
    assert!(lookup.handle_answer(START, query, &good.bytes()));
    let LookupAction::Done(answer) = lookup.poll(START) else {
        panic!("not done");
    };
    assert_eq!(show(&answer), "NullMx");
}

#[test]
fn records_off_the_question_are_not_believed() {
    let (answer, _) = run(mail("d.test", config()), |_, _, packet| {
        let mut reply = Reply::to(packet);
        reply.mx("bank.test", 300, 1, "evil.test");
        reply.a("bank.test", 300, Ipv4Addr::new(192, 0, 2, 66));
        reply.soa("test", 60, 60);
        Some(reply.bytes())
    });
    assert_eq!(show(&answer), "NoAddress");
}

#[test]
fn a_dead_server_costs_one_try_and_then_the_living_one_goes_first() {
    let zone = Zone::new("d.test MX 1 a.test | a.test A 192.0.2.1");
    let mut asked = Vec::new();
    let (answer, took) = run(mail("d.test", config()), |server, _, packet| {
        asked.push(server);
        (server == 1).then(|| zone.answer(packet)).flatten()
    });
    assert_eq!(show(&answer), "a.test: a.test 1 192.0.2.1");
    assert_eq!(asked, [0, 1, 1, 1]);
    assert_eq!(took.as_secs(), 2);
    // The next lookup is told.
    let lookup = mail("d.test", config()).first_server(1);
    let (_, took) = run(lookup, |server, _, packet| {
        (server == 1).then(|| zone.answer(packet)).flatten()
    });
    assert_eq!(took, Duration::ZERO);
}

#[test]
fn all_silent_ends_after_all_tries_and_many_hosts_end_at_the_deadline() {
    let mut sent = 0;
    let (answer, took) = run(mail("d.test", config()), |_, _, _| {
        sent += 1;
        None
    });
    assert_eq!((sent, took.as_secs()), (4, 8));
    assert!(answer.result.unwrap_err().text.contains("MX d.test"));
    let mut zone = String::new();
    for n in 0..40 {
        zone += &format!("d.test MX 1 mx{n}.test | mx{n}.test SILENT |");
    }
    let zone = Zone::new(&zone);
    let (answer, took) = run(mail("d.test", config()), |_, _, packet| zone.answer(packet));
    assert_eq!((show(&answer).as_str(), took.as_secs()), ("Temporary", 15));
}

#[test]
fn a_failed_send_moves_on_at_once() {
    let zone = Zone::new("d.test A 192.0.2.1");
    let mut lookup = mail("d.test", config());
    let mut servers = Vec::new();
    let answer = loop {
        match lookup.poll(START) {
            LookupAction::Done(answer) => break answer,
            LookupAction::Wait { .. } => panic!("nothing to wait for"),
            LookupAction::Send {
                server,
                packet,
                query,
                ..
            } => {
                servers.push(server);
                if server == 0 {
                    lookup.handle_failure(START, query, "connection refused");
                    lookup.handle_failure(START, query, "twice does no harm");
                } else {
                    assert!(lookup.handle_answer(START, query, &zone.answer(&packet).unwrap()));
                }
            }
        }
    };
    assert_eq!(show(&answer), "d.test: d.test 0 192.0.2.1");
    assert_eq!(servers, [0, 1, 1, 1]);
}

#[test]
fn a_server_that_does_not_understand_edns_is_asked_without() {
    let zone = Zone::new("d.test A 192.0.2.1");
    let (answer, took) = run(mail("d.test", config()), |_, _, packet| {
        if packet[11] == 1 {
            return Some(Reply::to(packet).code(1).bytes());
        }
        zone.answer(packet)
    });
    assert_eq!(show(&answer), "d.test: d.test 0 192.0.2.1");
    assert_eq!(took, Duration::ZERO);
}

#[test]
fn a_thousand_hosts_with_a_thousand_addresses_each_are_cut_down() {
    let (answer, _) = run(mail("d.test", config()), |_, _, packet| {
        let mut asked = packet.to_vec();
        asked[2] |= 0x80;
        let question = wire::parse(&asked).unwrap().question;
        let mut reply = Reply::to(packet);
        match question.kind.unwrap() {
            Kind::Mx => {
                reply.mx("d.test", 300, 1, "best.test");
                for n in 0..999 {
                    reply.mx("d.test", 300, 10, &format!("mx{n}.test"));
                }
            }
            Kind::A => {
                for n in 0..1000_u32 {
                    reply.a(&question.name, 300, Ipv4Addr::from(0xc633_0000 + n));
                }
            }
            Kind::Aaaa | Kind::Txt | Kind::Ptr => {}
        }
        Some(reply.bytes())
    });
    let hosts = answer.result.unwrap();
    assert_eq!(hosts.hosts.len(), 32);
    assert_eq!(&*hosts.hosts[0].name, "best.test");
    assert!(hosts.hosts.iter().all(|host| host.addresses.len() == 16));
    assert!(
        hosts
            .hosts
            .iter()
            .any(|host| host.name.len() > "mx31.test".len()),
        "a random part"
    );
    assert_eq!(hosts.site.as_str(), "best.test");
}

#[test]
fn an_mx_that_names_no_host_still_rules_out_an_implicit_one() {
    let (answer, _) = run(mail("d.test", config()), |_, _, packet| {
        let mut reply = Reply::to(packet);
        reply.raw("d.test", 15, 300, b"\x00\x01\x03a.b\x00");
        Some(reply.bytes())
    });
    assert_eq!(show(&answer), "NoAddress");
}

#[test]
fn mixed_case_goes_out_and_must_come_back() {
    let mixing = Config {
        mix_case: true,
        ..config()
    };
    let name = "a-long-name-with-many-letters.test";
    let zone_text = format!("{name} A 192.0.2.1");
    let zone = Zone::new(&zone_text);
    let (answer, took) = run(mail(name, mixing.clone()), |_, _, packet| {
        assert!(packet[13..].iter().any(u8::is_ascii_uppercase));
        zone.answer(packet)
    });
    assert_eq!(show(&answer), format!("{name}: {name} 0 192.0.2.1"));
    assert_eq!(took, Duration::ZERO);
    let mut lookup = mail(name, mixing);
    let LookupAction::Send { packet, query, .. } = lookup.poll(START) else {
        panic!("no query");
    };
    let lowered = packet.to_ascii_lowercase();
    assert!(!lookup.handle_answer(START, query, &Reply::to(&lowered).bytes()));
}

#[test]
fn questions_in_the_air_are_bounded() {
    let mut zone = String::new();
    for n in 0..32 {
        zone += &format!("d.test MX 1 mx{n}.test | mx{n}.test A 192.0.2.1 |");
    }
    let zone = Zone::new(&zone);
    let mut lookup = mail("d.test", config());
    let LookupAction::Send { packet, query, .. } = lookup.poll(START) else {
        panic!("no query");
    };
    assert!(lookup.handle_answer(START, query, &zone.answer(&packet).unwrap()));
    let mut sent = 0;
    while let LookupAction::Send { .. } = lookup.poll(START) {
        sent += 1;
    }
    assert_eq!(sent, 8);
}

proptest! {
    /// Whatever servers send, and whenever they are silent: a lookup ends, within its deadline.
    #[test]
    fn every_lookup_ends(
        seed in any::<u64>(),
        script in proptest::collection::vec(
            (0_u8..6, proptest::collection::vec(any::<u8>(), 0..60)), 1..40,
        ),
    ) {
        let zone = Zone::new(
            "d.test CNAME e.test | e.test MX 1 a.test | e.test MX 2 b.test | a.test A 192.0.2.1
             | b.test CNAME a.test",
        );
        let mut lookup = Lookup::new(START, "d.test", &Arc::new(config()), seed);
        let mut now = START;
        let mut step = 0;
        loop {
            match lookup.poll(now) {
                LookupAction::Done(_) => break,
                LookupAction::Wait { until } => {
                    prop_assert!(until > now);
                    now = until;
                }
                LookupAction::Send { packet, query, .. } => {
                    let (what, bytes) = &script[step % script.len()];
                    step += 1;
                    prop_assert!(step < 5000);
                    match what {
                        0 => lookup.handle_failure(now, query, "broken"),
                        1 => {
                            lookup.handle_answer(now, query, bytes);
                        }
                        2 => {
                            // A good head and then anything.
                            let mut answer = Reply::to(&packet).bytes();
                            answer[7] = bytes.len() as u8;
                            answer.extend(bytes);
                            lookup.handle_answer(now, query, &answer);
                        }
                        3 => {
                            lookup.handle_answer(now, query, &Reply::to(&packet).truncated().bytes());
                        }
                        4 => {
                            lookup.handle_answer(now, query, &zone.answer(&packet).unwrap());
                        }
                        _ => {}
                    }
                }
            }
        }
        prop_assert!(now.since(START) <= Duration::from_secs(15));
    }
}
