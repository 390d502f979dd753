//! Jobs through the real binary: a file with rows becomes personal messages at a sink, each checked by
//! its bytes.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod jobfile;
mod support;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hikyaku::io::secret;
use hikyaku::job::token::{Purpose, Secret, Token};
use hikyaku::signing::{PrivateKey, PublicKey, Verifier};
use hikyaku::sink::SinkConfig;
use hikyaku_spool::inspect;
use jobfile::archive;
use support::recording::{Arrived, Copy};
use support::{Bed, all_to, until};

const DOCUMENT: &str = r#"name = "spring"
from = "News <news@sender.test>"
reverse_path = "bounce+{token}@bounces.sender.test"
subject = "For {{ name }}: {{ number }}"

[recipients]
file = "rows.csv"

[content]
text = "body.txt"
html = "body.html"

[list]
id = "spring.sender.test"
unsubscribe = "https://sender.test/u/{token}"
"#;

const TEXT: &str = "Hello {{ name }}, number {{ number }}.\n{{ unsubscribe_url }}\n";
const HTML: &str = "<html><body><p>Hello {{ name }}, number {{ number }}.</p><a href=\"{{ unsubscribe_url }}\">Leave</a></body></html>\n";

fn rows(count: u32, domains: u32) -> String {
    let mut rows = "email,name,number\n".to_owned();
    for row in 0..count {
        let _ = writeln!(rows, "u{row}@d{}.test,Name {row},n{row}x", row % domains);
    }
    rows
}

fn job(count: u32, domains: u32) -> Vec<u8> {
    let rows = rows(count, domains);
    archive(&[
        ("job.toml", DOCUMENT),
        ("body.txt", TEXT),
        ("body.html", HTML),
        ("rows.csv", &rows),
    ])
}

fn spool_secret(bed: &Bed) -> Secret {
    secret::load(&bed.path("spool")).expect("the spool's secret")
}

/// The value of a header field, unfolded.
fn field<'a>(message: &'a str, name: &str) -> String {
    let header: &'a str = message.split("\r\n\r\n").next().unwrap_or_default();
    let unfolded = header.replace("\r\n ", " ").replace("\r\n\t", " ");
    let prefix = format!("{name}: ");
    let mut found = unfolded
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned));
    let value = found
        .next()
        .unwrap_or_else(|| panic!("no {name}: {header}"));
    assert!(found.next().is_none(), "{name} twice: {header}");
    value
}

/// Every row's message says what its row says, under tokens of its own.
fn check_all(bed: &Bed, arrived: &Arrived, count: u32, domains: u32) {
    let secret = spool_secret(bed);
    let arrived = arrived.lock().expect("arrived");
    assert_eq!(arrived.len(), count as usize);
    let mut tokens = HashSet::new();
    let mut ids = HashSet::new();
    let mut job = None;
    for row in 0..count {
        let recipient = format!("u{row}@d{}.test", row % domains);
        let copies = &arrived[&recipient];
        assert!(copies.iter().all(|copy| *copy == copies[0]), "{recipient}");
        let Copy {
            reverse_path,
            content,
        } = &copies[0];
        let message = str::from_utf8(content).expect("seven bits");
        assert!(message.is_ascii());
        assert!(field(message, "To").contains(&recipient), "{message}");
        assert_eq!(
            field(message, "Subject"),
            format!("For Name {row}: n{row}x")
        );
        let said = format!("Hello Name {row}, number n{row}x.");
        assert_eq!(message.matches(&said).count(), 2, "{message}");
        let (local, domain) = reverse_path.split_once('@').expect("an address");
        assert_eq!(domain, "bounces.sender.test");
        let token = local.strip_prefix("bounce+").expect("a prefix");
        let (named, number) = Token::verify(&secret, Purpose::Bounce, token).expect("genuine");
        assert_eq!(number, u64::from(row));
        assert_eq!(*job.get_or_insert(named), named);
        assert!(tokens.insert(token.to_owned()));
        let list = field(message, "List-Unsubscribe");
        let at = list.find("https://sender.test/u/").expect("the address") + 22;
        let token = list[at..].split('>').next().expect("a token");
        let found = Token::verify(&secret, Purpose::Unsubscribe, token);
        assert_eq!(found, Some((named, u64::from(row))), "{list}");
        assert!(tokens.insert(token.to_owned()));
        assert!(ids.insert(field(message, "Message-ID")));
    }
}

#[test]
fn every_row_becomes_a_message_of_its_own() {
    const ROWS: u32 = 2000;
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    bed.drop_file("spring.job", job(ROWS, 12));
    let ended = bed.once(&format!("{} --shards 2", all_to(&sink)));
    assert_eq!(
        (
            ended.code,
            ended.count("accepted"),
            ended.count("delivered")
        ),
        (Some(0), u64::from(ROWS), u64::from(ROWS)),
        "{ended:?}"
    );
    check_all(&bed, &arrived, ROWS, 12);
    let receipt = bed.receipt("spring.job");
    for (name, wanted) in [
        ("recipients", ROWS),
        ("rows", ROWS),
        ("delivered", ROWS),
        ("duplicates", 0),
        ("skipped", 0),
    ] {
        assert_eq!(receipt[name], wanted, "{name} in {receipt}");
    }
    assert_eq!(receipt["state"], "final");
    assert_eq!(receipt["job"], "spring");
    let mut numbers: Vec<u64> = Vec::new();
    for line in bed.log_of("delivered") {
        assert_eq!(line["job"], "spring");
        let number = line["row"].as_u64().expect("a number");
        let recipient = line["recipient"].as_str().expect("text").to_owned();
        assert!(recipient.starts_with(&format!("u{number}@")), "{line}");
        let copy = &arrived.lock().expect("arrived")[&recipient][0];
        assert_eq!(line["reverse_path"], *copy.reverse_path);
        assert_eq!(line["size_bytes"], copy.content.len());
        numbers.push(number);
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..u64::from(ROWS)));
    assert_eq!(sink.stop().expect("report").counters.protocol_errors, 0);
    // Nothing of it is left: a second run has nothing to do, and says so.
    let ended = bed.once("");
    assert_eq!((ended.code, ended.count("accepted")), (Some(0), 0));
}

#[test]
fn copies_after_a_kill_are_the_same_to_the_byte() {
    const ROWS: u32 = 600;
    let bed = Bed::new();
    // Some are deferred first, so that they are tried by both processes.
    let (sink, arrived) = bed.keeping_sink("defer=30%");
    bed.drop_file("spring.job", job(ROWS, 5));
    let route = all_to(&sink);
    let soon = "--retry-first 1s --retry-max 1s";
    for wanted in [100, 300] {
        let engine = bed.start(&format!("{route} {soon}"));
        until("some have arrived", || {
            arrived.lock().expect("arrived").len() >= wanted
        });
        engine.kill();
    }
    let ended = bed.once(&format!("{route} {soon}"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    check_all(&bed, &arrived, ROWS, 5);
    let copies: usize = arrived
        .lock()
        .expect("arrived")
        .values()
        .map(Vec::len)
        .sum();
    let named = bed
        .log()
        .iter()
        .filter(|line| line["possible_duplicate"] == true)
        .count();
    assert!(
        copies - ROWS as usize <= named,
        "{copies} copies, {named} named"
    );
    let receipt = bed.receipt("spring.job");
    assert_eq!(receipt["delivered"], ROWS, "{receipt}");
}

#[test]
fn rows_that_are_refused_left_out_or_never_made_end_as_documented() {
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    let skip = DOCUMENT.replace("\n[content]", "on_bad_row = \"skip\"\n\n[content]");
    let rows = "email,name,number\n\
        one@a.test,One,1\n\
        no address,Two,2\n\
        one@A.test,Again,3\n\
        four@b.test,\"{{ 7 * 6 }} {% if %}\",4\n\
        five@b.test,=1+1,5\n";
    bed.drop_file(
        "skip.job",
        archive(&[
            ("job.toml", skip.as_str()),
            ("body.txt", TEXT),
            ("body.html", HTML),
            ("rows.csv", rows),
        ]),
    );
    bed.drop_file(
        "refused.job",
        archive(&[
            ("job.toml", DOCUMENT),
            ("body.txt", TEXT),
            ("body.html", HTML),
            ("rows.csv", rows),
        ]),
    );
    bed.drop_file("cut.job", &job(10, 1)[..3000]);
    let broken = "Hello {{ name";
    bed.drop_file(
        "broken.job",
        archive(&[
            ("job.toml", DOCUMENT),
            ("body.txt", broken),
            ("body.html", HTML),
            ("rows.csv", &self::rows(3, 1)),
        ]),
    );
    let unknown = "Hello {{ nobody }}";
    bed.drop_file(
        "unknown.job",
        archive(&[
            ("job.toml", DOCUMENT),
            ("body.txt", unknown),
            ("body.html", HTML),
            ("rows.csv", &self::rows(3, 1)),
        ]),
    );
    bed.drop_file(
        "empty.job",
        archive(&[
            ("job.toml", DOCUMENT),
            ("body.txt", TEXT),
            ("body.html", HTML),
            ("rows.csv", "email,name,number\n"),
        ]),
    );
    let ended = bed.once(&all_to(&sink));
    assert_eq!(ended.count("delivered"), 3, "{ended:?}");
    let receipt = bed.receipt("skip.job");
    for (name, wanted) in [
        ("rows", 5),
        ("duplicates", 1),
        ("skipped", 1),
        ("recipients", 3),
        ("delivered", 3),
    ] {
        assert_eq!(receipt[name], wanted, "{name} in {receipt}");
    }
    let first = receipt["first_skipped"].as_str().expect("a reason");
    assert!(first.starts_with("rows.csv line 3: "), "{first}");
    let arrived = arrived.lock().expect("arrived");
    let message = str::from_utf8(&arrived["four@b.test"][0].content).expect("text");
    assert!(
        message.contains("{{ 7 * 6 }} {% if %}"),
        "data is no template: {message}"
    );
    for (name, wanted) in [
        ("refused.job", "rows.csv line 3: "),
        ("cut.job", ""),
        ("broken.job", "body.txt line 1: "),
        ("unknown.job", "body.txt line 1: "),
        ("empty.job", "rows.csv"),
    ] {
        let receipt = bed.receipt(name);
        assert_eq!(receipt["state"], "refused", "{name}: {receipt}");
        assert_eq!(receipt["reason"]["code"], "job", "{name}: {receipt}");
        let detail = receipt["reason"]["detail"].as_str().expect("a reason");
        assert!(detail.starts_with(wanted), "{name}: {detail}");
    }
    assert_eq!(bed.names("new").len() + bed.names("claimed").len(), 0);
    fs::remove_dir_all(bed.path("spool")).expect("the spool is closed");
}

/// Nothing of any submission is alive in the spool.
fn assert_spool_is_empty(bed: &Bed, why: &str) {
    let seen = inspect::look(&bed.path("spool")).expect("a spool");
    for log in &seen.logs {
        assert_eq!(log.messages().len(), 0, "{why}: log {}", log.id);
        let left = log.submissions();
        assert!(left.is_empty(), "{why}: log {}: {left:?}", log.id);
    }
}

/// At whatever point the process dies: rows are delivered, and nothing of the job stays in the spool.
#[test]
fn a_kill_at_a_point_loses_no_row_and_leaves_no_bundle() {
    const ROWS: u32 = 40;
    for spec in [
        "kill=ingest.staged:1",
        "kill=shard.staged:1",
        "kill=shard.staged:2",
        "kill=ingest.read:1",
        "kill=shard.accept-appended:1",
        "kill=shard.accept-appended:2",
        "kill=commit.synced:2",
        "kill=ingest.accepted:1",
        "kill=conn.after-dot:20",
        "kill=shard.marked:39",
        "kill=shard.marked:40",
        "kill=ingest.receipt-written:1",
        "kill=ingest.removals-synced:1",
        "kill=ingest.closed:1",
        "kill=drain.begun:1",
        "kill=drain.ended:1",
    ] {
        let bed = Bed::new();
        let (sink, arrived) = bed.keeping_sink("");
        bed.drop_file("spring.job", job(ROWS, 4));
        let run = format!("{} --shards 2", all_to(&sink));
        let ended = bed.once(&format!("{run} --faults {spec}"));
        assert_eq!(ended.code, None, "{spec} is not reached: {ended:?}");
        let ended = bed.once(&run);
        assert_eq!(ended.code, Some(0), "{spec}: {ended:?}");
        check_all(&bed, &arrived, ROWS, 4);
        let receipt = bed.receipt("spring.job");
        assert_eq!(receipt["state"], "final", "{spec}: {receipt}");
        assert_eq!(receipt["delivered"], ROWS, "{spec}: {receipt}");
        assert_spool_is_empty(&bed, spec);
        drop(sink);
    }
}

/// A key for sender.test: its record, and the settings that name it.
fn signing(bed: &Bed, key: &str) -> (PublicKey, String) {
    let path = bed.path("key.pem");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dkim-keys");
    fs::copy(data.join(key), &path).expect("key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    let record = PrivateKey::read(&path).expect("key").dns_record();
    let record = PublicKey::parse(record.as_bytes()).expect("record");
    let settings = bed.path("settings.toml");
    let text = "[[dkim]]\ndomain = \"sender.test\"\nselector = \"s1\"\nkey = \"key.pem\"\n";
    fs::write(&settings, text).expect("settings");
    (record, format!("--config {}", settings.display()))
}

/// The first copy of everybody's message has one signature, which mail-auth accepts.
fn assert_signed(arrived: &Arrived, record: &PublicKey) {
    let verifier = Verifier::new().expect("verifier");
    for (recipient, copies) in &*arrived.lock().expect("arrived") {
        let found = verifier.verify(&copies[0].content, |domain, selector| {
            ((domain, selector) == ("sender.test", "s1")).then(|| record.clone())
        });
        let [one] = found.as_slice() else {
            panic!("{recipient}: {} signatures", found.len())
        };
        assert_eq!(one.fault, None, "{recipient}");
    }
}

#[test]
fn every_message_is_signed_and_the_same_after_a_kill() {
    const ROWS: u32 = 120;
    for (key, streams) in [("rsa2048-pkcs8.pem", true), ("ed25519.pem", false)] {
        let bed = Bed::new();
        let (record, config) = signing(&bed, key);
        let (sink, arrived) = bed.keeping_sink("delay=2ms");
        bed.drop_file("spring.job", job(ROWS, 3));
        let stream = if streams { "--pipeline stream" } else { "" };
        let run = format!("{} {stream} {config}", all_to(&sink));
        let engine = bed.start(&run);
        until("some have arrived", || {
            arrived.lock().expect("arrived").len() >= 30
        });
        engine.kill();
        let ended = bed.once(&run);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        // None of these bodies is that of another row.
        assert_eq!(ended.json["body_hashes_reused"], 0, "{ended:?}");
        check_all(&bed, &arrived, ROWS, 3);
        assert_signed(&arrived, &record);
        assert_spool_is_empty(&bed, key);
    }
}

/// A body that says nothing of its row is hashed once for the job; the header is signed for each.
#[test]
fn a_body_that_is_the_same_for_all_rows_is_hashed_once() {
    const ROWS: u32 = 40;
    let same = "The same for everybody. \n\n  But for the header.\n";
    for (content, bodies) in [
        ("text = \"body.txt\"", 1),
        ("text = \"body.txt\"\nhtml = \"body.html\"", 1),
        // Each of both bodies is hashed once.
        (
            "text = \"body.txt\"\n[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\ntext = \"other.txt\"",
            2,
        ),
    ] {
        let bed = Bed::new();
        let (record, config) = signing(&bed, "rsa2048-pkcs8.pem");
        let (sink, arrived) = bed.keeping_sink("");
        let both = "text = \"body.txt\"\nhtml = \"body.html\"";
        let mut document = DOCUMENT.replace(both, "");
        document = document.replace("[content]\n", "");
        write!(document, "\n[content]\n{content}\n").expect("a document");
        let rows = rows(ROWS, 3);
        let mut files = vec![
            ("job.toml", &*document),
            ("body.txt", same),
            ("other.txt", "Another one.\n"),
            ("body.html", "<p>The same for everybody.</p>\n"),
            ("rows.csv", &*rows),
        ];
        // A file that is not named is refused.
        files.retain(|(name, _)| *name == "job.toml" || document.contains(name));
        bed.drop_file("spring.job", archive(&files));
        let ended = bed.once(&format!("{} --shards 1 {config}", all_to(&sink)));
        assert_eq!(ended.code, Some(0), "{content}: {ended:?}");
        assert_eq!(ended.json["body_hashes_reused"], ROWS - bodies, "{ended:?}");
        assert_eq!(ended.json["signatures"], ROWS, "{ended:?}");
        assert_eq!(arrived.lock().expect("arrived").len(), ROWS as usize);
        assert_signed(&arrived, &record);
    }
}

/// A ready-made message is the same for all of its recipients, its signature included.
#[test]
fn a_message_for_many_is_signed_once() {
    let bed = Bed::new();
    let (record, config) = signing(&bed, "rsa2048-pkcs8.pem");
    let (sink, arrived) = bed.keeping_sink("");
    let recipients: Vec<String> = (0..60).map(|n| format!("r{n}@d{n}.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    bed.drop_eml("many.eml", 1, &recipients);
    bed.drop_eml("one.eml", 2, &["one@d1.test"]);
    let ended = bed.once(&format!("{} --shards 1 {config}", all_to(&sink)));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(
        (
            &ended.json["signatures"],
            &ended.json["signatures_repeated"]
        ),
        (&2.into(), &59.into()),
        "{ended:?}"
    );
    assert_eq!(arrived.lock().expect("arrived").len(), 61);
    assert_signed(&arrived, &record);
}

#[test]
fn a_message_that_the_peer_has_no_room_for_is_not_sent_and_others_are() {
    let bed = Bed::new();
    let sink = bed.sink_with(SinkConfig {
        features: hikyaku::sink::Features {
            size_max: 4000,
            ..hikyaku::sink::Features::default()
        },
        ..SinkConfig::default()
    });
    let long = "x".repeat(6000);
    let rows =
        format!("email,name,number\nsmall@a.test,S,1\nlarge@a.test,{long},2\nlast@a.test,L,3\n");
    let document = DOCUMENT.replace("For {{ name }}: ", "");
    bed.drop_file(
        "sizes.job",
        archive(&[
            ("job.toml", document.as_str()),
            ("body.txt", TEXT),
            ("body.html", HTML),
            ("rows.csv", &rows),
        ]),
    );
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.count("delivered"), ended.count("bounced")),
        (2, 1),
        "{ended:?}"
    );
    assert_eq!(bed.arrived(), ["last@a.test", "small@a.test"]);
    let bounce = &bed.log_of("bounce")[0];
    assert_eq!(
        (&bounce["row"], &bounce["recipient"]),
        (&1.into(), &"large@a.test".into())
    );
}

/// A row that its template cannot make a message of is held, which blames nobody's address, with the
/// reason; the others go on.
#[test]
fn a_row_that_cannot_be_rendered_is_held_and_the_others_go_on() {
    let bed = Bed::new();
    let (sink, arrived) = bed.keeping_sink("");
    let document = DOCUMENT.replace("subject =", "charset = \"iso-2022-jp\"\nsubject =");
    let rows = "email,name,number\none@a.test,山田,1\ntwo@a.test,🦀,2\nthree@a.test,Three,3\n";
    bed.drop_file(
        "held.job",
        archive(&[
            ("job.toml", document.as_str()),
            ("body.txt", TEXT),
            ("body.html", HTML),
            ("rows.csv", rows),
        ]),
    );
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.count("delivered"), ended.count("held")),
        (2, 1),
        "{ended:?}"
    );
    let arrived: Vec<String> = arrived.lock().expect("arrived").keys().cloned().collect();
    assert_eq!(arrived, ["one@a.test", "three@a.test"]);
    let held = &bed.log_of("held")[0];
    let reason = held["reply"].as_str().expect("a reason");
    assert!(
        reason.starts_with("no message can be made from row 1 of job spring: "),
        "{reason}"
    );
    assert_eq!(
        (&held["row"], &held["recipient"]),
        (&1.into(), &"two@a.test".into())
    );
    assert_spool_is_empty(&bed, "held");
}
