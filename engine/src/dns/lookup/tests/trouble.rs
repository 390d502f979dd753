//! Servers that fail, are silent or do not understand: what is asked again, whom, and until when.

use super::*;

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
