//! The schema: one golden line per type, and valid JSON whatever a peer says.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::mail::id::MessageId;

fn delivered() -> AttemptRecord<'static> {
    AttemptRecord {
        kind: AttemptKind::Delivered,
        time: WallTime::from_unix_millis(1_795_290_318_042),
        recipient_id: RecipientId {
            message: MessageId { log: 2, seq: 42 },
            index: 7,
        },
        submission: Some(SubmissionId(0xab)),
        file: Some(b"campaign.eml"),
        job: Some(b"spring"),
        variant: None,
        row: None,
        envid: Some(b"e-1"),
        reverse_path: b"b+7@news.test",
        recipient: b"ann@mx.test",
        domain: b"mx.test",
        site: "mx.test",
        mx: Some(b"mx1.mx.test"),
        address: Some("192.0.2.9:25".parse().unwrap()),
        source: Some([192, 0, 2, 1].into()),
        ehlo: Some("out.news.test"),
        tls: SessionTls::Tls {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
        },
        phase: "dot",
        code: Some(250),
        enhanced: Some(EnhancedCode::new(2, 0, 0)),
        reply: b"ok \"queued\" as 7F\xff",
        class: "delivered",
        rule: None,
        attempt: 1,
        next_attempt: None,
        possible_duplicate: false,
        size_bytes: 4096,
        accepted_at: WallTime::from_unix_millis(1_795_290_317_999),
        timings: Timings {
            queued: Some(Duration::from_micros(42)),
            dns: Some(Duration::from_millis(3)),
            connect: Some(Duration::from_micros(1500)),
            tls: Some(Duration::from_micros(12_345)),
            transaction: Some(Duration::from_micros(20_001)),
        },
        shard: ShardId(2),
    }
}

fn lines(write: impl Fn(&mut LineWriter, &mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut LineWriter::default(), &mut out);
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn golden(line: &str, want: &str) {
    assert_eq!(line, format!("{}\n", want.replace("\n        ", "")));
    serde_json::from_str::<Value>(line).unwrap();
}

#[test]
fn a_row_of_a_job() {
    let record = AttemptRecord {
        variant: Some("b"),
        row: Some(4_000_000_000),
        ..delivered()
    };
    let line = lines(|writer, out| writer.attempt(&record, out));
    let part = r#""job":"spring","variant":"b","row":4000000000,"envid":"e-1""#;
    assert!(line.contains(part), "{line}");
}

#[test]
fn a_delivery() {
    golden(
        &lines(|writer, out| writer.attempt(&delivered(), out)),
        r#"{"type":"delivered","time":"2026-11-21T19:45:18.042Z","message":"0002-00000000002a","recipient_index":7,
        "submission":"000000000000000000000000000000ab","file":"campaign.eml","job":"spring","envid":"e-1",
        "reverse_path":"b+7@news.test","recipient":"ann@mx.test","domain":"mx.test","site":"mx.test",
        "mx":"mx1.mx.test","address":"192.0.2.9:25","source":"192.0.2.1","ehlo":"out.news.test",
        "tls":{"version":"TLSv1.3","cipher":"TLS_AES_128_GCM_SHA256"},"phase":"dot","code":250,"enhanced":"2.0.0",
        "reply":"ok \"queued\" as 7F�","class":"delivered","attempt":1,"size_bytes":4096,
        "accepted_at":"2026-11-21T19:45:17.999Z",
        "timings_ms":{"queued":0.042,"dns":3.000,"connect":1.500,"tls":12.345,"transaction":20.001},"shard":2}"#,
    );
}

#[test]
fn a_deferral_in_doubt() {
    let record = AttemptRecord {
        kind: AttemptKind::Deferral,
        tls: SessionTls::Plain,
        code: None,
        enhanced: None,
        reply: b"connection lost",
        class: "network",
        attempt: 2,
        next_attempt: Some(WallTime::from_unix_millis(1_795_291_218_000)),
        possible_duplicate: true,
        submission: None,
        file: None,
        job: None,
        variant: None,
        row: None,
        envid: None,
        timings: Timings::default(),
        ..delivered()
    };
    golden(
        &lines(|writer, out| writer.attempt(&record, out)),
        r#"{"type":"deferral","time":"2026-11-21T19:45:18.042Z","message":"0002-00000000002a","recipient_index":7,
        "reverse_path":"b+7@news.test","recipient":"ann@mx.test","domain":"mx.test","site":"mx.test",
        "mx":"mx1.mx.test","address":"192.0.2.9:25","source":"192.0.2.1","ehlo":"out.news.test","tls":null,
        "phase":"dot","reply":"connection lost","class":"network","attempt":2,
        "next_attempt":"2026-11-21T20:00:18.000Z","possible_duplicate":true,"size_bytes":4096,
        "accepted_at":"2026-11-21T19:45:17.999Z","timings_ms":{},"shard":2}"#,
    );
}

#[test]
fn a_bounce() {
    let record = AttemptRecord {
        kind: AttemptKind::Bounce,
        reverse_path: b"",
        address: Some("[2001:db8::25]:25".parse().unwrap()),
        source: Some("2001:db8::1".parse().unwrap()),
        phase: "rcpt",
        code: Some(550),
        enhanced: Some(EnhancedCode::new(5, 1, 1)),
        reply: b"no such user",
        class: "mailbox-unknown",
        rule: Some("mailbox-unknown"),
        timings: Timings {
            transaction: Some(Duration::from_secs(2)),
            ..Timings::default()
        },
        ..delivered()
    };
    golden(
        &lines(|writer, out| writer.attempt(&record, out)),
        r#"{"type":"bounce","time":"2026-11-21T19:45:18.042Z","message":"0002-00000000002a","recipient_index":7,
        "submission":"000000000000000000000000000000ab","file":"campaign.eml","job":"spring","envid":"e-1",
        "reverse_path":"","recipient":"ann@mx.test","domain":"mx.test","site":"mx.test",
        "mx":"mx1.mx.test","address":"[2001:db8::25]:25","source":"2001:db8::1","ehlo":"out.news.test",
        "tls":{"version":"TLSv1.3","cipher":"TLS_AES_128_GCM_SHA256"},"phase":"rcpt","code":550,"enhanced":"5.1.1",
        "reply":"no such user","class":"mailbox-unknown","rule":"mailbox-unknown","attempt":1,"size_bytes":4096,
        "accepted_at":"2026-11-21T19:45:17.999Z","timings_ms":{"transaction":2000.000},"shard":2}"#,
    );
}

#[test]
fn an_expiration() {
    let record = AttemptRecord {
        kind: AttemptKind::Expiration,
        submission: None,
        file: None,
        job: None,
        variant: None,
        row: None,
        envid: None,
        mx: None,
        address: None,
        source: None,
        ehlo: None,
        tls: SessionTls::NoSession,
        phase: "dns",
        code: None,
        enhanced: None,
        reply: b"no answer for mx.test MX",
        class: "dns-temp",
        attempt: 24,
        timings: Timings::default(),
        ..delivered()
    };
    golden(
        &lines(|writer, out| writer.attempt(&record, out)),
        r#"{"type":"expiration","time":"2026-11-21T19:45:18.042Z","message":"0002-00000000002a","recipient_index":7,
        "reverse_path":"b+7@news.test","recipient":"ann@mx.test","domain":"mx.test","site":"mx.test","phase":"dns",
        "reply":"no answer for mx.test MX","class":"dns-temp","attempt":24,"size_bytes":4096,
        "accepted_at":"2026-11-21T19:45:17.999Z","timings_ms":{},"shard":2}"#,
    );
}

#[test]
fn a_site_and_the_engine() {
    let time = WallTime::from_unix_millis(0);
    let site = SiteRecord {
        time,
        event: SiteEvent::Paused,
        site: "yahoo",
        source: Some([192, 0, 2, 1].into()),
        tenant: None,
        reason: "2 replies of one rule within an hour",
        rule: Some("yahoo-volume"),
        reply: Some(b"421 4.7.0 [TSS04]"),
        until: Some(WallTime::from_unix_millis(7_200_000)),
        rate_per_hour: None,
        connections: Some(1),
        shard: Some(ShardId(0)),
    };
    golden(
        &lines(|writer, out| writer.site(&site, out)),
        r#"{"type":"site","time":"1970-01-01T00:00:00.000Z","event":"paused","site":"yahoo","source":"192.0.2.1",
        "reason":"2 replies of one rule within an hour","rule":"yahoo-volume","reply":"421 4.7.0 [TSS04]",
        "until":"1970-01-01T02:00:00.000Z","connections":1,"shard":0}"#,
    );
    for (event, want) in [
        (
            EngineEvent::Started {
                version: "0.1.0",
                shards: 4,
            },
            r#""started","version":"0.1.0","shards":4}"#,
        ),
        (
            EngineEvent::Recovered {
                messages: 3,
                recipients: 5,
                in_doubt: 1,
            },
            r#""recovered","messages":3,"recipients":5,"in_doubt":1}"#,
        ),
        (EngineEvent::Stopped, r#""stopped"}"#),
    ] {
        let record = EngineRecord {
            time,
            event,
            shard: None,
            detail: None,
        };
        let line = lines(|writer, out| writer.engine(&record, out));
        golden(
            &line,
            &format!(r#"{{"type":"engine","time":"1970-01-01T00:00:00.000Z","event":{want}"#),
        );
    }
}

#[test]
fn times_are_utc_and_bounded() {
    let mut stamp = Stamp::default();
    for (millis, want) in [
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_782_400_999, "2000-02-29T00:00:00.999Z"),
        (4_102_444_799_001, "2099-12-31T23:59:59.001Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (u64::MAX, "9999-12-30T21:59:59.999Z"),
    ] {
        assert_eq!(
            std::str::from_utf8(stamp.format(WallTime::from_unix_millis(millis))),
            Ok(want)
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_make_a_valid_line(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 7),
        numbers in prop::collection::vec(any::<u64>(), 5),
        code in prop::option::of(any::<u16>()),
        log in any::<u16>(), attempt in any::<u32>(),
    ) {
        let message = MessageId { log, seq: numbers[0] };
        let record = AttemptRecord {
            recipient_id: RecipientId { message, index: attempt },
            time: WallTime::from_unix_millis(numbers[1]),
            accepted_at: WallTime::from_unix_millis(numbers[2]),
            size_bytes: numbers[3],
            timings: Timings { queued: Some(Duration::from_nanos(numbers[4])), ..Timings::default() },
            reverse_path: &texts[0], recipient: &texts[1], domain: &texts[2], reply: &texts[3],
            job: Some(&texts[4]), envid: Some(&texts[5]), mx: Some(&texts[6]),
            code, attempt,
            ..delivered()
        };
        let line = lines(|writer, out| writer.attempt(&record, out));
        prop_assert!(line.ends_with('\n') && !line[..line.len() - 1].contains('\n'));
        let parsed: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(parsed["reply"].as_str().unwrap(), String::from_utf8_lossy(&texts[3]));
        prop_assert_eq!(parsed["job"].as_str().unwrap(), String::from_utf8_lossy(&texts[4]));
        prop_assert_eq!(parsed["message"].as_str().unwrap(), message.to_string());
        prop_assert_eq!(parsed["size_bytes"].as_u64(), Some(numbers[3]));
        let time: jiff::Timestamp = parsed["time"].as_str().unwrap().parse().unwrap();
        prop_assert_eq!(time.as_millisecond(), i64::try_from(numbers[1].min(253_402_207_199_999)).unwrap());
    }
}
