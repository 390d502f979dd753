//! From records to hosts: MX and none, aliases, addresses out of bounds, how long it all holds.

use std::net::Ipv4Addr;

use super::*;

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
