//! Packets that nobody asked for, and any packets at all.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

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
