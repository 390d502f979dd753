//! Lookups against zones written as text, under a clock that only the test moves.

mod forged;
mod records;
mod trouble;

use super::super::testing::Reply;
use super::*;
use crate::dns::{OwnAddresses, ProviderRules};

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
