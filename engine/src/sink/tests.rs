//! The sink over real loopback sockets, spoken to by a blocking client.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Features, Report, Script, Sink, SinkConfig, SinkError, SinkHandle, ledger};

fn start(config: &SinkConfig) -> SinkHandle {
    Sink::bind(config).unwrap().spawn().unwrap()
}

fn with_script(script: &str) -> SinkHandle {
    start(&SinkConfig {
        script: script.parse().unwrap(),
        ..SinkConfig::default()
    })
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads complete replies until `count` of them came; their codes, with a multi-line one counted once.
fn replies(stream: &mut impl Read, count: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let (mut line, mut byte) = (String::new(), [0]);
    while out.len() < count && stream.read(&mut byte).unwrap_or(0) == 1 {
        line.push(char::from(byte[0]));
        if line.ends_with("\r\n") {
            if line.as_bytes()[3] == b' ' {
                out.push(line[..3].to_owned());
            }
            line.clear();
        }
    }
    out
}

/// Plays `wire` on one connection, closes the sending side, and returns everything that was said.
fn play(sink: &SinkHandle, wire: &[u8]) -> String {
    let mut stream = connect(sink.addresses()[0]);
    assert_eq!(replies(&mut stream, 1), ["220"]);
    stream.write_all(wire).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8(said).unwrap()
}

fn codes(said: &str) -> String {
    said.lines()
        .filter(|l| l.as_bytes()[3] == b' ')
        .map(|l| &l[..3])
        .collect::<Vec<_>>()
        .join(" ")
}

fn message(id: u32) -> String {
    format!("Message-ID: <{id}@x>\r\nX-Hikyaku-Seq: {id:06}\r\n\r\nhello\r\n..dot\r\n")
}

fn transaction(id: u32, recipients: &[&str]) -> String {
    let rcpt: String = recipients
        .iter()
        .map(|r| format!("RCPT TO:<{r}>\r\n"))
        .collect();
    format!("MAIL FROM:<a@b.test>\r\n{rcpt}DATA\r\n{}.\r\n", message(id))
}

#[test]
fn a_dialogue_is_answered_alike_however_it_is_cut() {
    let sink = start(&SinkConfig::default());
    let chunk = message(2).replace("\r\n..", "\r\n.");
    let wire = format!(
        "EHLO c\r\n{}MAIL FROM:<> BODY=8BITMIME SIZE=100\r\nRCPT TO:<u@d.test>\r\nBDAT {}\r\n{}BDAT 3 LAST\r\na\r\nQUIT\r\n",
        transaction(1, &["u@d.test", "v@d.test"]),
        chunk.len(),
        chunk,
    );
    let expected = "250 250 250 250 354 250 250 250 250 250 221";
    assert_eq!(codes(&play(&sink, wire.as_bytes())), expected);
    for cut in 1..wire.len() {
        let mut stream = connect(sink.addresses()[0]);
        stream.write_all(&wire.as_bytes()[..cut]).unwrap();
        // Once the sink has read the first part, the second is a burst of its own.
        let before = sink.snapshot().counters.bytes;
        for _ in 0..100 {
            if sink.snapshot().counters.bytes > before {
                break;
            }
            std::thread::yield_now();
        }
        stream.write_all(&wire.as_bytes()[cut..]).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(codes(&said), format!("220 {expected}"), "cut at {cut}");
    }
    let report = sink.stop().unwrap();
    let count = wire.len() as u64;
    assert_eq!(report.counters.messages, 2 * count);
    assert_eq!(report.counters.recipients, 3 * count);
    assert_eq!(report.counters.duplicates, 3 * (count - 1));
    assert_eq!(report.counters.quits, count);
    assert_eq!(
        (
            report.counters.bare_line_ends,
            report.counters.bad_syntax,
            report.counters.abandoned
        ),
        (0, 0, 0)
    );
    assert!(
        report.counters.cpu_ns > 0
            && report.counters.message_last_ns >= report.counters.message_first_ns
    );
}

#[test]
fn byte_by_byte_takes_the_same_message() {
    let sink = start(&SinkConfig::default());
    let wire = format!("EHLO c\r\n{}QUIT\r\n", transaction(1, &["u@d.test"]));
    let mut stream = connect(sink.addresses()[0]);
    for byte in wire.as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(codes(&said), "220 250 250 250 354 250 221");
    assert_eq!(sink.stop().unwrap().counters.messages, 1);
}

#[test]
fn what_the_peer_breaks_is_counted() {
    type Count = fn(&Report) -> u64;
    let cases: [(&str, &str, Count); 11] = [
        ("EHLO c\r\nNOOP\r\n", "250 250", |r| r.counters.early_bytes),
        ("MAIL FROM:<a@b>\r\n", "503", |r| r.counters.bad_sequence),
        ("HELO c\r\nMAIL FROM:a@b\r\n", "250 501", |r| {
            r.counters.bad_syntax
        }),
        ("HELO c\r\nMAIL FROM:<a@b> X=1\r\n", "250 555", |r| {
            r.counters.bad_syntax
        }),
        ("FOO\r\n", "500", |r| r.counters.bad_syntax),
        ("HELO c\n", "501", |r| r.counters.bare_line_ends),
        ("HELO c\r\nBDAT x LAST\r\n", "250 501", |r| {
            r.counters.closed_by_script
        }),
        (
            "HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\na\n.\n\r\n.\r\n",
            "250 250 250 354 250",
            |r| r.counters.bare_line_ends,
        ),
        (
            "HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n\u{e9}\r\n.\r\n",
            "250 250 250 354 250",
            |r| r.counters.eight_bit_undeclared,
        ),
        (
            "HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\nQUIT\r\n",
            "250 250 250 354 250 221",
            |r| r.counters.quit_behind_dot,
        ),
        ("HELO c\r\nMAIL FROM:<>\r\n", "250 250", |r| {
            r.counters.abandoned
        }),
    ];
    for (wire, expected, count) in cases {
        let sink = start(&SinkConfig::default());
        assert_eq!(codes(&play(&sink, wire.as_bytes())), expected, "{wire}");
        let report = sink.stop().unwrap();
        assert_eq!(count(&report), 1, "{wire}: {report:?}");
    }
}

#[test]
fn features_that_are_off_are_neither_offered_nor_taken() {
    let sink = start(&SinkConfig {
        features: Features::NONE,
        ..SinkConfig::default()
    });
    let said = play(
        &sink,
        b"EHLO c\r\nSTARTTLS\r\nBDAT 1 LAST\r\nMAIL FROM:<> SIZE=1\r\n",
    );
    assert_eq!(said.lines().next(), Some("250 sink.test"));
    assert_eq!(codes(&said), "250 500 500 555");
    assert!(!said.contains("5.5.1"), "{said}");
    assert_eq!(sink.stop().unwrap().counters.early_bytes, 3);
}

#[test]
fn keywords_decide_the_fate_of_a_recipient() {
    let sink = with_script("slow=1ms");
    let rcpt = "EHLO c\r\nMAIL FROM:<>\r\n";
    let cases = [
        ("reject-1", "250 250 550"),
        ("defer-1", "250 250 451"),
        ("defer-1", "250 250 250"),
        ("fail-1", "250 250 451"),
        ("fail-1", "250 250 451"),
        ("full-1", "250 250 452"),
        ("busy-1", "250 250 421"),
        ("close-1", "250 250"),
    ];
    for (local, expected) in cases {
        let wire = format!("{rcpt}RCPT TO:<{local}@d.test>\r\n");
        assert_eq!(codes(&play(&sink, wire.as_bytes())), expected, "{local}");
    }
    let cases = [
        ("slow-1", "250 250 250 354 250"),
        ("rejectdot-1", "250 250 250 354 554"),
        ("deferdot-1", "250 250 250 354 451"),
        ("closedot-1", "250 250 250 354"),
        ("closeafter-1", "250 250 250 354"),
    ];
    for (id, (local, expected)) in (0..).zip(cases) {
        let wire = format!(
            "EHLO c\r\n{}",
            transaction(id, &[&format!("{local}@d.test")])
        );
        assert_eq!(codes(&play(&sink, wire.as_bytes())), expected, "{local}");
    }
    let wire = format!("EHLO c\r\n{}", transaction(9, &["reject-1@d.test"]));
    assert!(codes(&play(&sink, wire.as_bytes())).starts_with("250 250 550 554 500"));
    assert_eq!(sink.stop().unwrap().counters.messages, 2);
}

#[test]
fn connections_close_at_the_stage_that_the_script_names() {
    let wire = format!("EHLO c\r\n{}QUIT\r\n", transaction(1, &["u@d.test"]));
    for (stage, expected, accepted) in [
        ("banner", "", 0),
        ("ehlo", "220", 0),
        ("mail", "220 250", 0),
        ("rcpt", "220 250 250", 0),
        ("data", "220 250 250 250", 0),
        ("body", "220 250 250 250 354", 0),
        ("dot", "220 250 250 250 354", 0),
        ("accepted", "220 250 250 250 354", 1),
        ("quit", "220 250 250 250 354 250", 1),
    ] {
        let sink = with_script(&format!("close={stage}/2"));
        let talk = || {
            let mut stream = connect(sink.addresses()[0]);
            let _ = stream.write_all(wire.as_bytes());
            // Closed with input unread, the kernel may reset: what was said before counts.
            replies(&mut stream, 9).join(" ")
        };
        assert_eq!(talk(), "220 250 250 250 354 250 221", "{stage}");
        let said = talk();
        assert!(expected.starts_with(&said), "{stage}: {said}");
        let report = sink.stop().unwrap();
        assert_eq!(report.counters.messages, 1 + accepted, "{stage}");
        assert_eq!(report.counters.closed_by_script, 1, "{stage}");
    }
}

#[test]
fn busy_receivers_and_message_limits_answer_421() {
    let sink = with_script("busy=2,messages=1");
    let wire = format!(
        "EHLO c\r\n{}{}",
        transaction(1, &["u@d.test"]),
        transaction(2, &["u@d.test"])
    );
    assert_eq!(
        codes(&play(&sink, wire.as_bytes())),
        "250 250 250 354 250 421"
    );
    assert_eq!(replies(&mut connect(sink.addresses()[0]), 2), ["421"]);
}

#[test]
fn commands_behind_a_dot_meet_what_the_script_says() {
    let wire = format!(
        "EHLO c\r\n{}NOOP\r\nNOOP\r\n",
        transaction(1, &["u@d.test"])
    );
    for (rule, expected) in [
        ("answer", "250 250 250 354 250 250 250"),
        ("discard", "250 250 250 354 250"),
        ("close", "250 250 250 354 250"),
    ] {
        let sink = with_script(&format!("behind-dot={rule}"));
        assert_eq!(codes(&play(&sink, wire.as_bytes())), expected);
        assert_eq!(sink.stop().unwrap().counters.behind_dot, 1);
    }
}

#[test]
fn delayed_replies_come_late_and_in_order() {
    let sink = with_script("delay=30ms,slow=1ms");
    let mut stream = connect(sink.addresses()[0]);
    let begun = std::time::Instant::now();
    assert_eq!(replies(&mut stream, 1), ["220"]);
    assert!(begun.elapsed() >= Duration::from_millis(25));
    stream.write_all(b"EHLO c\r\n").unwrap();
    stream
        .write_all(transaction(1, &["slow-1@d.test"]).as_bytes())
        .unwrap();
    stream.write_all(b"NOOP\r\nQUIT\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(codes(&said), "250 250 250 354 250 250 221");
}

#[test]
fn the_ledger_names_each_recipient_before_its_250_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let sink = start(&SinkConfig {
        ledger: Some(path.clone()),
        ..SinkConfig::default()
    });
    let mut stream = connect(sink.addresses()[0]);
    replies(&mut stream, 1);
    let plain = message(7).replace("\r\n..", "\r\n.");
    let chunked = format!(
        "MAIL FROM:<>\r\nRCPT TO:<w@d.test>\r\nBDAT {}\r\n{plain}BDAT 0 LAST\r\n",
        plain.len()
    );
    stream
        .write_all(
            format!(
                "EHLO c\r\n{}{chunked}",
                transaction(7, &["u@d.test", "v@d.test"])
            )
            .as_bytes(),
        )
        .unwrap();
    assert_eq!(replies(&mut stream, 10).last().unwrap(), "250");
    let entries = ledger::read(&path).unwrap();
    let names: Vec<&str> = entries.iter().map(|e| &*e.recipient).collect();
    assert_eq!(names, ["u@d.test", "v@d.test", "w@d.test"]);
    let hash = xxhash_rust::xxh3::xxh3_64(plain.as_bytes());
    assert!(
        entries
            .iter()
            .all(|e| e.token == "000007" && e.content_hash == hash && e.unix_ns > 0)
    );
}

#[test]
fn latency_counts_from_when_a_message_was_due() {
    let sink = start(&SinkConfig::default());
    let due = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos()
        - 5_000_000;
    let wire =
        format!("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nX-Due: {due}\r\n\r\n.\r\n");
    play(&sink, wire.as_bytes());
    let report = sink.stop().unwrap();
    let latency = report.latency.unwrap();
    assert!(
        latency.count == 1 && latency.p50_us >= 5_000 && latency.max_us < 60_000_000,
        "{latency:?}"
    );
    assert_eq!(report.counters.unidentified, 1);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
}

#[test]
fn starttls_begins_anew_inside_and_sessions_resume() {
    let sink = Sink::bind(&SinkConfig::default()).unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(sink.certificate().unwrap().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (config, name) = (Arc::new(config), ServerName::try_from("sink.test").unwrap());
    let sink = sink.spawn().unwrap();
    for id in 0..2 {
        let mut stream = connect(sink.addresses()[0]);
        stream.write_all(b"EHLO c\r\nSTARTTLS\r\n").unwrap();
        assert_eq!(replies(&mut stream, 3), ["220", "250", "220"]);
        let client = ClientConnection::new(Arc::clone(&config), name.clone()).unwrap();
        let mut tls = StreamOwned::new(client, stream);
        let big = "x".repeat(70).repeat(2000).as_bytes().chunks(70).fold(
            String::new(),
            |mut all, line| {
                all.push_str(std::str::from_utf8(line).unwrap());
                all.push_str("\r\n");
                all
            },
        );
        let envelope = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n";
        write!(tls, "{envelope}").unwrap();
        assert_eq!(replies(&mut tls, 3), ["503", "503", "503"]);
        write!(
            tls,
            "EHLO c\r\n{envelope}Message-ID: <{id}>\r\n\r\n{big}.\r\nQUIT\r\n"
        )
        .unwrap();
        assert_eq!(
            replies(&mut tls, 6),
            ["250", "250", "250", "354", "250", "221"]
        );
        assert_eq!(tls.read(&mut [0]).unwrap(), 0, "close_notify");
    }
    let report = sink.stop().unwrap();
    assert_eq!(
        (report.counters.tls_handshakes, report.counters.tls_resumed),
        (2, 1)
    );
    assert_eq!(
        (report.counters.messages, report.counters.tls_failures),
        (2, 0)
    );
}

#[test]
fn bytes_injected_before_tls_are_thrown_away() {
    let sink = start(&SinkConfig::default());
    let said = play(&sink, b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<evil@x>\r\n");
    assert_eq!(codes(&said), "250 220");
    // The first early one is STARTTLS itself, sent behind EHLO in one burst.
    assert_eq!(sink.stop().unwrap().counters.early_bytes, 2);
}

#[test]
fn garbage_in_tls_ends_that_connection_only() {
    let sink = start(&SinkConfig::default());
    let mut stream = connect(sink.addresses()[0]);
    stream.write_all(b"STARTTLS\r\n").unwrap();
    assert_eq!(replies(&mut stream, 2), ["220", "220"]);
    stream.write_all(&[0x41; 600]).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(codes(&play(&sink, b"QUIT\r\n")), "221");
    assert_eq!(sink.stop().unwrap().counters.tls_failures, 1);
}

#[test]
fn several_addresses_one_sink_and_errors_that_say_what_to_do() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = SinkConfig {
        listen: vec![any, any],
        ..SinkConfig::default()
    };
    let sink = Sink::bind(&config).unwrap();
    let taken = sink.addresses()[0];
    let again = Sink::bind(&SinkConfig {
        listen: vec![taken],
        ..SinkConfig::default()
    });
    assert!(matches!(&again, Err(SinkError::Listen { .. })), "{again:?}");
    assert!(again.unwrap_err().to_string().contains("another port"));
    let sink = sink.spawn().unwrap();
    for address in sink.addresses() {
        assert_eq!(replies(&mut connect(*address), 1), ["220"]);
    }
    assert_eq!(sink.stop().unwrap().counters.connections, 2);
    let missing = (dir_that_is_not().join("c"), dir_that_is_not().join("k"));
    let config = SinkConfig {
        certificate: Some(missing),
        ..SinkConfig::default()
    };
    assert!(matches!(
        Sink::bind(&config),
        Err(SinkError::Certificate { .. })
    ));
    let config = SinkConfig {
        ledger: Some(dir_that_is_not().join("l")),
        ..SinkConfig::default()
    };
    assert!(matches!(Sink::bind(&config), Err(SinkError::Ledger { .. })));
}

fn dir_that_is_not() -> std::path::PathBuf {
    std::env::temp_dir().join("hikyaku-no-such-directory")
}

#[test]
fn a_stopped_sink_refuses_and_a_dropped_one_stops() -> io::Result<()> {
    let sink = with_script("");
    let address = sink.addresses()[0];
    assert!(sink.is_running());
    drop(sink);
    assert!(TcpStream::connect(address).is_err());
    assert_eq!("".parse::<Script>().unwrap(), Script::default());
    Ok(())
}
