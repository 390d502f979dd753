//! The hosts that DNS names, as a real name server gives them: nsd on loopback, sinks on loopback
//! addresses of their own.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::engine::{Engine, Run};
use crate::nsd::Nsd;
use crate::server::free_port;
use crate::smtp_sink::{SmtpSink, at};

/// Sinks; nobody listens on 127.0.3.9.
const SINKS: [&str; 3] = ["127.0.3.1", "127.0.3.2", "127.0.3.3"];

const ZONE: &str = "
one A 127.0.3.1
two A 127.0.3.2
three A 127.0.3.3
dead A 127.0.3.9
dead-two A 127.0.3.9

preference MX 20 two
preference MX 5 three
preference MX 10 one

failover MX 10 dead
failover MX 20 two

; The first host has a dead address, too.
addresses MX 10 mixed.addresses
mixed.addresses A 127.0.3.9
mixed.addresses A 127.0.3.3

null MX 0 .
implicit A 127.0.3.2
alias CNAME aliased
aliased MX 10 three
chain CNAME alias
; A host that is an alias is forbidden (RFC 2181 10.3) and common.
host-alias MX 10 other-name
other-name CNAME one
text-only TXT \"no mail here\"
nowhere MX 10 missing.nowhere
*.wild MX 10 one
";

/// Domains with two hosts of one preference each.
const EQUAL: usize = 24;

#[test]
fn hosts_come_from_a_real_server() {
    let mut zone = ZONE.to_owned();
    for number in 0..EQUAL {
        let _ = write!(
            zone,
            "equal{number} MX 10 left{number}\nequal{number} MX 10 right{number}\n\
             left{number} A 127.0.3.1\nright{number} A 127.0.3.2\n"
        );
    }
    // More than a datagram: only TCP brings the one host that there is.
    let _ = writeln!(zone, "big MX 5 three");
    for number in 0..60 {
        let _ = writeln!(
            zone,
            "big MX 50 a-host-with-a-long-name-number-{number}.below.another-long-name"
        );
    }
    let nsd = Nsd::start(&zone);
    assert_eq!(nsd.ask_mx("big.test"), (0, true), "truncated over UDP");
    assert_eq!(nsd.ask_mx("d.broken"), (2, false), "SERVFAIL");
    assert_eq!(nsd.ask_mx("gone.test"), (3, false), "NXDOMAIN");

    let port = free_port();
    let sinks = SINKS.map(|address| SmtpSink::start(at(address, port), &[]));
    let engine = Engine::new();
    let mut domains: Vec<String> = [
        "preference",
        "failover",
        "addresses",
        "null",
        "implicit",
        "alias",
        "chain",
        "host-alias",
        "text-only",
        "nowhere",
        "some.wild",
        "big",
        "gone",
    ]
    .map(|name| format!("{name}.test"))
    .into();
    domains.push("d.broken".to_owned());
    domains.extend((0..EQUAL).map(|number| format!("equal{number}.test")));
    for domain in &domains {
        engine.drop_message(
            domain,
            &[format!("r@{domain}")],
            b"From: own@sender.test\n\nbody\n",
        );
    }
    let resolver = nsd.address.to_string();
    let port = port.to_string();
    let run = engine.run(&[
        "--resolver",
        &resolver,
        "--port",
        &port,
        "--allow-private-targets",
        "--tls",
        "never",
        "--retry-first",
        "1s",
        "--retry-max",
        "1s",
        "--expire",
        "4s",
    ]);

    for (domain, host) in [
        ("preference", "127.0.3.3"),
        ("failover", "127.0.3.2"),
        ("addresses", "127.0.3.3"),
        ("implicit", "127.0.3.2"),
        ("alias", "127.0.3.3"),
        ("chain", "127.0.3.3"),
        ("host-alias", "127.0.3.1"),
        ("some.wild", "127.0.3.1"),
        ("big", "127.0.3.3"),
    ] {
        let attempts = run.attempts(&format!("r@{domain}.test"));
        let [line] = attempts.as_slice() else {
            panic!("{domain}: {attempts:?}")
        };
        assert_eq!(
            (&line["type"], host_of(line)),
            (&"delivered".into(), host),
            "{domain}: {line}"
        );
    }

    let left: HashSet<&str> = (0..EQUAL)
        .map(|number| host_of(run.last(&format!("r@equal{number}.test"))))
        .collect();
    assert_eq!(
        left,
        HashSet::from(["127.0.3.1", "127.0.3.2"]),
        "equal preferences share the load"
    );

    assert_bounced(&run, "null", "domain-no-mail", "5.1.10", 1);
    // One look can be wrong.
    assert_bounced(&run, "text-only", "domain-no-mail", "5.4.4", 2);
    assert_bounced(&run, "nowhere", "domain-no-mail", "5.4.4", 2);
    assert_bounced(&run, "gone", "domain-unknown", "5.1.2", 2);
    let first = run.attempts("r@gone.test")[0];
    assert_eq!(
        (&first["type"], &first["phase"]),
        (&"deferral".into(), &"dns".into()),
        "{first}"
    );

    let attempts = run.attempts("r@d.broken");
    assert!(attempts.len() >= 2, "{attempts:?}");
    let (last, before) = attempts.split_last().expect("attempts");
    assert_eq!(last["type"], "expiration", "SERVFAIL never bounces: {last}");
    for line in before {
        assert_eq!(
            (&line["type"], &line["class"]),
            (&"deferral".into(), &"dns-temp".into()),
            "{line}"
        );
    }

    run.assert_balanced(domains.len() as u64);
    let received: usize = sinks.iter().map(|sink| sink.dumps().len()).sum();
    assert_eq!(received as u64, run.count("delivered"));
}

/// Several domains behind one host that refuses connections: each of their recipients is given up in
/// time, not only those of the first.
#[test]
fn everybody_behind_a_dead_host_expires() {
    let nsd = Nsd::start("dead A 127.0.3.9\na MX 10 dead\nb MX 10 dead\nc MX 10 dead\n");
    let engine = Engine::new();
    for number in 0..30 {
        let domain = ["a", "b", "c"][number % 3];
        engine.drop_message(
            &format!("m{number}"),
            &[format!("r{number}@{domain}.test")],
            b"From: own@sender.test\n\nbody\n",
        );
    }
    let (resolver, port) = (nsd.address.to_string(), free_port().to_string());
    let run = engine.run(&[
        "--resolver",
        &resolver,
        "--port",
        &port,
        "--allow-private-targets",
        "--retry-first",
        "1s",
        "--retry-max",
        "1s",
        "--expire",
        "3s",
    ]);
    run.assert_balanced(30);
    assert_eq!(
        (run.count("expired"), run.status),
        (30, 3),
        "{}",
        run.report
    );
    let refused = |line: &&Value| line["type"] == "deferral" && line["phase"] == "connect";
    let line = run.log.iter().find(refused).expect("an attempt");
    assert_eq!(line["site"], "dead.test", "{line}");
}

/// Without permission, mail for domains that name private addresses stays here.
#[test]
fn private_addresses_are_refused_unless_allowed() {
    let nsd = Nsd::start("one A 127.0.3.1\nprivate MX 10 one\n");
    let engine = Engine::new();
    engine.drop_message(
        "m",
        &["r@private.test".to_owned()],
        b"From: own@sender.test\n\nbody\n",
    );
    let (resolver, port) = (nsd.address.to_string(), free_port().to_string());
    let run = engine.run(&["--resolver", &resolver, "--port", &port]);
    run.assert_balanced(1);
    assert_bounced(&run, "private", "route-failure", "5.4.4", 1);
}

fn assert_bounced(run: &Run, domain: &str, class: &str, code: &str, attempts: usize) {
    let recipient = format!("r@{domain}.test");
    let line = run.last(&recipient);
    assert_eq!(
        (&line["type"], &line["class"]),
        (&"bounce".into(), &class.into()),
        "{domain}: {line}"
    );
    assert_eq!(line["enhanced"], code, "{domain}: {line}");
    assert_eq!(
        (&line["phase"], run.attempts(&recipient).len()),
        (&"dns".into(), attempts),
        "{domain}: {line}"
    );
}

/// The address without its port.
fn host_of(line: &Value) -> &str {
    line["address"]
        .as_str()
        .and_then(|address| address.rsplit_once(':'))
        .map_or("", |(host, _)| host)
}
