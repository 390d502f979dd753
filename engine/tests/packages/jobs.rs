//! Messages of jobs, made, signed twice and delivered by the real program into `smtp-sink`: dkimpy verifies every
//! signature, and Python's parser reads what the rows say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use aws_lc_rs::digest;
use hikyaku::job::archive::{write_end, write_header, write_padding};
use serde_json::Value;

use crate::corpus::wire;
use crate::dkim::{keys, verify};
use crate::engine::{Engine, Run};
use crate::server::{bounded, free_port, run};
use crate::smtp_sink::{Dump, SmtpSink, at};

/// What a row says in its field `name`.
fn values() -> Vec<(&'static str, String)> {
    let mut values: Vec<(&'static str, String)> = [
        ("ascii", "Ann"),
        ("eight-bit", "Gr\u{fc}\u{df}e \u{2014} na\u{ef}ve"),
        ("japanese", "山田 花子 様、こんにちは"),
        ("crab", "🦀 über 🦀"),
        (
            "soft-breaks",
            "a=b =3D trailing blank and an equals sign at the end =",
        ),
        ("formula", "=cmd|'/c calc'!A1"),
        ("template", "{{ 7*7 }}{% raw %}{# x #}"),
        ("markup", "<b>&\"'</b> </p>"),
        ("dots", ".leading dot"),
        ("encoded-word", "=?utf-8?q?forged?= \u{202e}tfel"),
        ("from-line", "From here on"),
        ("empty", ""),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec();
    values.push(("long", "x".repeat(5000)));
    values.push(("long-japanese", "春のセール".repeat(300)));
    values.push(("long-words", "word ".repeat(400).trim_end().to_owned()));
    values
}

/// Those whose every character ISO-2022-JP has.
const JIS: [&str; 5] = ["ascii", "japanese", "dots", "soft-breaks", "long-japanese"];

const BODY: &str = "{{ name }}\nHallo \u{fc}ber alles, 名前: {{ name }}\n.\n{{ unsubscribe_url }}";
const JIS_BODY: &str = "{{ name }}\nこんにちは、名前: {{ name }}\n.\n{{ unsubscribe_url }}";
const HTML: &str = "<html><body><p title=\"{{ name }}\">{{ name }}</p>\n\
    <p>Hallo \u{fc}ber alles <img src=\"cid:logo\"> <a href=\"{{ unsubscribe_url }}\">x</a></p></body></html>";

/// Every byte, so that base64 has all of them, and no line end at its end.
fn attachment() -> Vec<u8> {
    (0..3000_u32).map(|n| (n * 7 % 256) as u8).collect()
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        write_header(&mut out, name, content.len() as u64);
        out.extend_from_slice(content);
        write_padding(&mut out, content.len() as u64);
    }
    write_end(&mut out);
    out
}

fn document(name: &str, more: &str, content: &str) -> String {
    format!(
        "name = \"{name}\"\nfrom = \"ニュース <news@sender.test>\"\nsubject = \"件名 {{{{ name }}}}\"\n\
         reverse_path = \"bounce+{{token}}@sender.test\"\n{more}\n\
         [recipients]\nfile = \"rows.csv\"\n\n[content]\n{content}\n\
         [list]\nid = \"{name}.sender.test\"\nunsubscribe = \"https://sender.test/u/{{token}}\"\n"
    )
}

fn rows<'a>(job: &str, values: impl Iterator<Item = &'a (&'static str, String)>) -> String {
    let mut rows = "email,name\n".to_owned();
    for (local, value) in values {
        // One subject cannot be as long as a text may be: those go out in the job without it.
        let _ = writeln!(
            rows,
            "{job}.{local}@d.test,\"{}\"",
            value.replace('"', "\"\"")
        );
    }
    rows
}

fn drop_jobs(engine: &Engine) {
    let values = values();
    let attached = attachment();
    let whole = rows("whole", values.iter());
    let files = "text = \"body.txt\"\nhtml = \"body.html\"\n\
        [[content.attachment]]\nfile = \"all.bin\"\nname = \"添付 資料.bin\"\ntype = \"application/octet-stream\"\n\
        [[content.attachment]]\nfile = \"logo.png\"\ninline = \"logo\"\n";
    engine.drop_file(
        "whole.job",
        &archive(&[
            ("job.toml", document("whole", "", files).as_bytes()),
            ("body.txt", BODY.as_bytes()),
            ("body.html", HTML.as_bytes()),
            ("all.bin", &attached),
            ("logo.png", &attached[..777]),
            ("rows.csv", whole.as_bytes()),
        ]),
    );
    let jis = rows("jis", values.iter().filter(|(name, _)| JIS.contains(name)));
    engine.drop_file(
        "jis.job",
        &archive(&[
            (
                "job.toml",
                document("jis", "charset = \"iso-2022-jp\"", "text = \"body.txt\"").as_bytes(),
            ),
            ("body.txt", JIS_BODY.as_bytes()),
            ("rows.csv", jis.as_bytes()),
        ]),
    );
    let made = rows("made", values.iter());
    engine.drop_file(
        "made.job",
        &archive(&[
            (
                "job.toml",
                document("made", "", "html = \"body.html\"")
                    .replace("件名 ", "")
                    .as_bytes(),
            ),
            (
                "body.html",
                HTML.replace(" <img src=\"cid:logo\">", "").as_bytes(),
            ),
            ("rows.csv", made.as_bytes()),
        ]),
    );
}

/// Two keys sign what comes from `sender.test`.
fn settings(engine: &Engine, records: &BTreeMap<&str, String>) -> String {
    let mut config = String::new();
    for selector in records.keys() {
        let _ = write!(
            config,
            "[[dkim]]\ndomain = \"sender.test\"\nselector = \"{selector}\"\nkey = \"{selector}\"\n"
        );
    }
    let path = engine.path("settings.toml");
    fs::write(&path, config).expect("settings");
    path.to_str().expect("UTF-8").to_owned()
}

fn deliver(engine: &Engine, settings: &str, stream: bool) -> (Run, Vec<Dump>) {
    let address = at("127.0.0.1", free_port());
    let sink = SmtpSink::start(address, &[]);
    let route = format!("*={address}");
    let pipeline = if stream { "stream" } else { "transaction" };
    let run = engine.run(&[
        "--config",
        settings,
        "--route",
        &route,
        "--tls",
        "never",
        "--pipeline",
        pipeline,
    ]);
    let dumps = sink.dumps();
    (run, dumps)
}

#[test]
fn every_signature_of_a_jobs_messages_verifies_with_dkimpy() {
    for stream in [false, true] {
        let engine = Engine::new();
        let records = keys(&engine);
        let settings = settings(&engine, &records);
        drop_jobs(&engine);
        let (ended, dumps) = deliver(&engine, &settings, stream);
        let count = 2 * values().len() + JIS.len();
        ended.assert_balanced(count as u64);
        assert_eq!(ended.count("delivered"), count as u64, "{:?}", ended.log);

        let received = engine.path("received");
        fs::create_dir(&received).expect("directory");
        for dump in &dumps {
            let [recipient] = &dump.recipients[..] else {
                panic!("one recipient: {:?}", dump.recipients)
            };
            let (name, _) = recipient.split_once('@').expect("an address");
            let content = wire(&dump.content);
            assert!(content.is_ascii(), "{name}: seven bits");
            let lines = content.split(|byte| *byte == b'\n');
            assert!(
                lines.into_iter().all(|line| line.len() <= 999),
                "{name}: lines"
            );
            fs::write(received.join(name), content).expect("message");
        }
        let results = verify(&received, &records);
        assert_eq!(results.len(), count);
        for (name, found) in &results {
            assert_eq!(found, &["ok", "ok"], "{name}");
        }
        eprintln!("{count} messages, two signatures each, stream: {stream}");

        let mut read = bounded("/usr/bin/python3", 120);
        read.arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/packages/read_mail.py"
        ));
        let read: BTreeMap<String, Value> =
            serde_json::from_str(&run(read.arg(&received))).expect("JSON");
        for (local, value) in values() {
            check(&format!("whole.{local}"), &read, &value);
            check(&format!("made.{local}"), &read, &value);
            if JIS.contains(&local) {
                check(&format!("jis.{local}"), &read, &value);
            }
        }
    }
}

/// What Python's parser reads of one message.
fn check(name: &str, read: &BTreeMap<String, Value>, value: &str) {
    let message = &read[name];
    assert_eq!(
        message["defects"],
        Value::Array(Vec::new()),
        "{name}: {message}"
    );
    let part = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let (job, local) = name.split_once('.').expect("a job");
    assert_eq!(message["to"], format!("{name}@d.test"));
    let subject = if job == "made" {
        value.to_owned()
    } else {
        format!("件名 {value}")
    };
    // An empty value leaves a blank at the end, which nobody can see.
    assert_eq!(part("subject").trim_end(), subject.trim_end(), "{name}");
    // Of base64 Python keeps the line ends of mail.
    let text = part("text").replace("\r\n", "\n");
    match job {
        "whole" => assert!(
            text.starts_with(&format!(
                "{value}\nHallo \u{fc}ber alles, 名前: {value}\n.\n"
            )),
            "{name}: {text}"
        ),
        "jis" => {
            assert_eq!(message["charset"], "iso-2022-jp", "{name}");
            assert!(
                text.starts_with(&format!("{value}\nこんにちは、名前: {value}\n.\n")),
                "{name}: {text}"
            );
            return;
        }
        // Made from the HTML part: its white space is what HTML shows, its long lines are folded where they can be.
        _ => {
            let squeeze = |text: &str| text.split_whitespace().collect::<String>();
            assert!(squeeze(&text).contains(&squeeze(value)), "{name}: {text}");
        }
    }
    let escaped = value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let escaped = escaped.replace('"', "&quot;").replace('\'', "&#39;");
    let html = part("html");
    assert!(
        html.contains(&format!("\">{escaped}</p>")),
        "{name}: {html}"
    );
    let mut wanted = Vec::new();
    if job == "whole" {
        let attached = attachment();
        wanted.push(("添付 資料.bin", hash(&attached)));
        wanted.push(("logo.png", hash(&attached[..777])));
    }
    let mut found: Vec<(String, String)> =
        serde_json::from_value(message["attachments"].clone()).expect("pairs");
    found.sort_by_key(|(name, _)| name == "logo.png");
    assert_eq!(found.len(), wanted.len(), "{name}: {found:?}");
    for ((name, hash), wanted) in found.iter().zip(wanted) {
        assert_eq!((&**name, &**hash), (wanted.0, &*wanted.1));
    }
    if local == "long" {
        let encodings = message["encodings"].to_string();
        assert!(
            encodings.contains("quoted-printable"),
            "{name}: {encodings}"
        );
    }
}

/// SHA-256 in hexadecimal.
fn hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect()
}
