//! SPF: the examples of RFC 7208, its limits, and records that lead nowhere.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::Zone;
use crate::preflight::dns::spf::{LOOKUPS_MAX, Sender, SpfOutcome, SpfResult, VOIDS_MAX, evaluate};

fn outcome(zone: &str, ip: &str, domain: &str) -> SpfOutcome {
    let zone = Zone::new(zone);
    let sender = Sender {
        ip: ip.parse().expect("address"),
        mailbox: "strong-bad@email.example.com",
        helo: "mx.example.org",
    };
    zone.run(|answers| evaluate(answers, sender, domain))
}

fn result(zone: &str, ip: &str) -> SpfResult {
    outcome(zone, ip, "example.com").result
}

/// RFC 7208 Appendix A.
const APPENDIX: &str = "
    example.com MX 10 mail-a.example.com
    example.com MX 20 mail-b.example.com
    example.com A 192.0.2.10
    example.com A 192.0.2.11
    amy.example.com A 192.0.2.65
    bob.example.com A 192.0.2.66
    mail-a.example.com A 192.0.2.129
    mail-b.example.com A 192.0.2.130
    example.org MX 10 mail-c.example.org
    mail-c.example.org A 192.0.2.140
    10.2.0.192.in-addr.arpa PTR example.com
    11.2.0.192.in-addr.arpa PTR example.com
    65.2.0.192.in-addr.arpa PTR amy.example.com
    66.2.0.192.in-addr.arpa PTR bob.example.com
    129.2.0.192.in-addr.arpa PTR mail-a.example.com
    130.2.0.192.in-addr.arpa PTR mail-b.example.com
    140.2.0.192.in-addr.arpa PTR mail-c.example.org
    4.0.0.10.in-addr.arpa PTR bob.example.com
";

#[test]
fn the_examples_of_the_rfc() {
    use SpfResult::{Fail, Pass};
    for (record, passes, fails) in [
        ("v=spf1 +all", &["192.0.2.10", "10.0.0.4"][..], &[][..]),
        (
            "v=spf1 a -all",
            &["192.0.2.10", "192.0.2.11"],
            &["192.0.2.65"],
        ),
        ("v=spf1 a:example.org -all", &[], &["192.0.2.10"]),
        (
            "v=spf1 mx -all",
            &["192.0.2.129", "192.0.2.130"],
            &["192.0.2.10"],
        ),
        (
            "v=spf1 mx:example.org -all",
            &["192.0.2.140"],
            &["192.0.2.129"],
        ),
        (
            "v=spf1 mx mx:example.org -all",
            &["192.0.2.129", "192.0.2.140"],
            &["192.0.2.65"],
        ),
        (
            "v=spf1 mx/30 mx:example.org/30 -all",
            &["192.0.2.131", "192.0.2.140", "192.0.2.143"],
            &["192.0.2.132"],
        ),
        (
            "v=spf1 ptr -all",
            &["192.0.2.65", "192.0.2.10"],
            &["192.0.2.140", "10.0.0.4"],
        ),
        (
            "v=spf1 ip4:192.0.2.128/28 -all",
            &["192.0.2.129", "192.0.2.140"],
            &["192.0.2.65"],
        ),
    ] {
        let zone = format!("{APPENDIX}\nexample.com TXT {record}");
        for ip in passes {
            assert_eq!(result(&zone, ip), Pass, "{record} {ip}");
        }
        for ip in fails {
            assert_eq!(result(&zone, ip), Fail, "{record} {ip}");
        }
    }
}

#[test]
fn results() {
    use SpfResult::{Fail, Neutral, None, Pass, PermError, SoftFail, TempError};
    let mut wrong = Vec::new();
    for (zone, expected) in [
        ("example.com A 192.0.2.1", None),
        ("example.com TXT other text", None),
        ("example.com TXT v=spf10 +all", None),
        ("example.com TXT v=spf1", Neutral),
        ("example.com TXT V=SPF1 ip4:192.0.2.0/24 -all", Pass),
        ("example.com TXT v=spf1 ?all", Neutral),
        ("example.com TXT v=spf1 ~all", SoftFail),
        ("example.com TXT v=spf1 -all", Fail),
        (
            "example.com TXT v=spf1 +all\nexample.com TXT v=spf1 -all",
            PermError,
        ),
        ("example.com TXT v=spf1 ip4:1.2.3 -all", PermError),
        ("example.com TXT v=spf1 unknown -all", PermError),
        ("example.com TXT v=spf1 ipv4:192.0.2.1 -all", PermError),
        ("example.com TXT v=spf1  x-new=1 ip4:192.0.2.1 -all", Pass),
        ("example.com FAIL", TempError),
        (
            "example.com TXT v=spf1 a:b.test -all\nb.test FAIL",
            TempError,
        ),
        // Include: only pass matches, none is an error (RFC 7208 §5.2).
        (
            "example.com TXT v=spf1 include:b.test ~all\nb.test TXT v=spf1 +all",
            Pass,
        ),
        (
            "example.com TXT v=spf1 -include:b.test ~all\nb.test TXT v=spf1 +all",
            Fail,
        ),
        (
            "example.com TXT v=spf1 include:b.test ~all\nb.test TXT v=spf1 -all",
            SoftFail,
        ),
        (
            "example.com TXT v=spf1 include:b.test ~all\nb.test A 192.0.2.9",
            PermError,
        ),
        (
            "example.com TXT v=spf1 include:b.test ~all\nb.test TXT v=spf1 a:",
            PermError,
        ),
        // Redirect: only where nothing matched (§6.1).
        (
            "example.com TXT v=spf1 redirect=b.test\nb.test TXT v=spf1 -all",
            Fail,
        ),
        (
            "example.com TXT v=spf1 redirect=b.test ?all\nb.test TXT v=spf1 -all",
            Neutral,
        ),
        ("example.com TXT v=spf1 redirect=b.test", PermError),
        // Macros.
        (
            "example.com TXT v=spf1 exists:%{ir}.%{v}.%{d2} -all\n1.2.0.192.in-addr.example.com A 127.0.0.2",
            Pass,
        ),
        (
            "example.com TXT v=spf1 exists:%{l}.x.%{o} -all\nstrong-bad.x.email.example.com A 127.0.0.2",
            Pass,
        ),
        (
            "example.com TXT v=spf1 exists:%{h}.%{d} -all\nmx.example.org.example.com A 127.0.0.2",
            Pass,
        ),
        (
            "example.com TXT v=spf1 exists:%{p}.x -all\n1.2.0.192.in-addr.arpa PTR a.test\na.test A 192.0.2.1\na.test.x A 127.0.0.2",
            Pass,
        ),
        (
            "example.com TXT v=spf1 exists:%{p}.x -all\nunknown.x A 127.0.0.2",
            Pass,
        ),
        // A name that cannot be asked for matches nothing.
        ("example.com TXT v=spf1 a:%{l}+%{l}.test -all", Fail),
        // Networks of the other family.
        (
            "example.com TXT v=spf1 ip6:2001:db8::/32 ip4:0.0.0.0/0 -all",
            Pass,
        ),
        (
            "example.com TXT v=spf1 a/24//64 -all\nexample.com A 192.0.2.200",
            Pass,
        ),
    ] {
        let found = result(zone, "192.0.2.1");
        if found != expected {
            wrong.push(format!(
                "{zone}: {} and not {}",
                found.name(),
                expected.name()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let zone = "example.com TXT v=spf1 a//64 -all\nexample.com AAAA 2001:db8::1";
    assert_eq!(result(zone, "2001:db8::2"), Pass);
    assert_eq!(result(zone, "2001:db8:0:1::2"), Fail);
    let zone = "example.com TXT v=spf1 ip4:192.0.2.1 -all";
    assert_eq!(result(zone, "::ffff:192.0.2.1"), Pass);
}

#[test]
fn ten_lookups_and_no_more() {
    for (count, expected) in [(10, SpfResult::Pass), (11, SpfResult::PermError)] {
        let mut zone = String::from("example.com TXT v=spf1");
        for number in 0..count {
            let _ = write!(zone, " a:n{number}.test");
        }
        zone.push_str(" ip4:192.0.2.1 -all");
        for number in 0..count {
            let _ = write!(zone, "\nn{number}.test A 198.51.100.1");
        }
        let outcome = outcome(&zone, "192.0.2.1", "example.com");
        assert_eq!(outcome.result, expected, "{outcome:?}");
        assert_eq!(outcome.lookups, count.min(LOOKUPS_MAX + 1));
        assert_eq!(outcome.voids, 0);
    }
}

#[test]
fn two_void_lookups_and_no_more() {
    for (count, expected) in [(2, SpfResult::Fail), (3, SpfResult::PermError)] {
        let mut zone = String::from("example.com TXT v=spf1");
        for number in 0..count {
            let _ = write!(zone, " a:n{number}.test");
        }
        zone.push_str(" -all");
        let outcome = outcome(&zone, "192.0.2.1", "example.com");
        assert_eq!(outcome.result, expected, "{outcome:?}");
        assert_eq!(outcome.voids, count.min(VOIDS_MAX + 1));
    }
}

#[test]
fn ten_hosts_of_an_mx_and_no_more() {
    for (count, expected) in [(10, SpfResult::Fail), (11, SpfResult::PermError)] {
        let mut zone = String::from("example.com TXT v=spf1 mx -all\n");
        for number in 0..count {
            let _ = writeln!(
                zone,
                "example.com MX 10 n{number}.test\nn{number}.test A 198.51.100.1"
            );
        }
        assert_eq!(result(&zone, "192.0.2.1"), expected);
    }
}

#[test]
fn loops_end() {
    for zone in [
        "example.com TXT v=spf1 include:example.com -all",
        "example.com TXT v=spf1 redirect=example.com",
        "example.com TXT v=spf1 include:b.test\nb.test TXT v=spf1 redirect=example.com",
    ] {
        let outcome = outcome(zone, "192.0.2.1", "example.com");
        assert_eq!(outcome.result, SpfResult::PermError, "{zone}");
        assert_eq!(outcome.lookups, LOOKUPS_MAX + 1);
    }
    // Each include doubles, and still it is eleven look-ups.
    let mut zone = String::new();
    for number in 0..20 {
        let next = number + 1;
        let _ = writeln!(
            zone,
            "n{number}.test TXT v=spf1 include:n{next}.test include:n{next}.test"
        );
    }
    let outcome = outcome(&zone, "192.0.2.1", "n0.test");
    assert_eq!(outcome.lookups, LOOKUPS_MAX + 1);
}

#[test]
fn a_huge_record_is_read() {
    let mut zone = String::from("example.com TXT v=spf1");
    for number in 0..3000 {
        let _ = write!(zone, " ip4:10.{}.{}.0", number / 250, number % 250);
    }
    zone.push_str(" ip4:192.0.2.1 -all");
    assert!(zone.len() > 40_000);
    assert_eq!(result(&zone, "192.0.2.1"), SpfResult::Pass);
}

#[test]
fn what_decided_is_said() {
    let zone =
        "example.com TXT v=spf1 include:_spf.b.test -all\n_spf.b.test TXT v=spf1 ip4:192.0.2.0/24";
    let passed = outcome(zone, "192.0.2.1", "example.com");
    assert_eq!(
        passed.why,
        "include:_spf.b.test (ip4:192.0.2.0 of _spf.b.test) of example.com"
    );
    let failed = outcome(zone, "198.51.100.1", "example.com");
    assert_eq!(failed.why, "all of example.com");
    let ptr = outcome(
        "example.com TXT v=spf1 ptr -all",
        "192.0.2.1",
        "example.com",
    );
    assert!(ptr.uses_ptr);
}

proptest! {
    #[test]
    fn any_record_ends(
        terms in proptest::collection::vec(
            proptest::sample::select(vec![
                "a", "mx", "ptr", "include:a.test", "include:b.test", "exists:%{l}.%{d}", "redirect=b.test", "ip4:1.2.3.4/33",
                "ip6:::/0", "-all", "%{", "include:%{p}", "a:%{h3r+-}/0//0", "exp=x", "mx:a.test/24", "v=spf1", "é", "=", ":",
            ]),
            0..12,
        ),
        more in ".{0,40}",
    ) {
        let record = format!("v=spf1 {} {}", terms.join(" "), more.replace('\n', " "));
        let zone = format!(
            "a.test TXT {record}\nb.test TXT {record}\na.test A 192.0.2.1\na.test MX 1 b.test\n\
             1.2.0.192.in-addr.arpa PTR a.test"
        );
        let outcome = outcome(&zone, "192.0.2.1", "a.test");
        prop_assert!(outcome.lookups <= LOOKUPS_MAX + 1);
        prop_assert!(outcome.voids <= VOIDS_MAX + 1);
    }
}
