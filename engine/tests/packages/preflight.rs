//! `hikyaku check message` against a real name server: nsd on loopback, with records as an operator writes
//! them and a key that `hikyaku keygen` made.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::engine::public_dir;
use crate::nsd::Nsd;
use crate::server::run;

const HIKYAKU: &str = env!("CARGO_BIN_EXE_hikyaku");

struct Sender {
    dir: tempfile::TempDir,
    nsd: Nsd,
}

/// A sender that does everything right, from 127.0.4.7.
fn sender() -> Sender {
    let dir = public_dir();
    let key = dir.path().join("key.pem");
    let made = run(Command::new(HIKYAKU)
        .args([
            "keygen",
            "--json",
            "--domain",
            "shop.test",
            "--selector",
            "s1",
            "--out",
        ])
        .arg(&key));
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let record = made["zone"].as_str().expect("record");

    // More than a datagram: only TCP brings it.
    let mut many = String::from("many TXT");
    for number in 0..150 {
        let start = if number == 0 { "v=spf1" } else { "" };
        let _ = write!(many, " \"{start} ip4:198.51.100.{number}\"");
    }
    many.push_str(" \" ip4:127.0.4.7\" \" -all\"");
    let zone = format!(
        "shop MX 10 mx.shop
shop TXT \"v=spf1 ip4:127.0.4.7 -all\"
bounce.shop MX 10 mx.shop
bounce.shop TXT \"v=spf1 include:many.test -all\"
mx.shop A 127.0.4.9
out1.shop A 127.0.4.7
_dmarc.shop TXT \"v=DMARC1; p=reject; rua=mailto:dmarc@shop.test\"
loop TXT \"v=spf1 include:loop.test -all\"
loop MX 10 mx.shop
dead TXT \"v=spf1 include:d.broken -all\"
dead MX 10 mx.shop
{many}
{record}
"
    );
    let names = "7 PTR out1.shop.test.\n8 CNAME 8.0/25\n8.0/25 PTR out1.shop.test.\n";
    let nsd = Nsd::start_zones(&[("test", &zone), ("4.0.127.in-addr.arpa", names)]);
    fs::write(
        dir.path().join("hikyaku.toml"),
        format!(
            "[dns]\nresolvers = [\"{}\"]\n[[source]]\nip = \"127.0.4.7\"\nehlo = \"out1.shop.test\"\n\
             [[dkim]]\ndomain = \"shop.test\"\nselector = \"s1\"\nkey = \"key.pem\"\n",
            nsd.address
        ),
    )
    .expect("settings");
    let date = jiff::fmt::rfc2822::to_string(&jiff::Zoned::now()).expect("date");
    fs::write(
        dir.path().join("good.eml"),
        format!(
            "From: Shop <news@shop.test>\nTo: taro@example.ne.jp\nSubject: News\nDate: {date}\n\
             Message-ID: <1@shop.test>\nList-Unsubscribe: <https://shop.test/u/1>\n\
             List-Unsubscribe-Post: List-Unsubscribe=One-Click\nList-Id: <news.shop.test>\n\
             Feedback-ID: 1:shop:news:hikyaku\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n\
             Hello\nunsubscribe: https://shop.test/u/1\n"
        ),
    )
    .expect("message");
    Sender { dir, nsd }
}

impl Sender {
    /// Exit status and what was printed.
    fn check(&self, message: &str, more: &[&str]) -> (i32, Value) {
        let output = Command::new("timeout")
            .args(["-k", "5", "100", HIKYAKU, "check", "message", "--json"])
            .arg(self.path(message))
            .args(more)
            .output()
            .expect("check");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}"));
        (output.status.code().expect("status"), value)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.dir.path()).join(name)
    }
}

fn ids(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().expect("findings");
    findings
        .iter()
        .filter_map(|finding| finding["id"].as_str())
        .collect()
}

fn verdict<'a>(report: &'a Value, receiver: &str) -> &'a str {
    let verdicts = report["verdicts"].as_array().expect("verdicts");
    let found = verdicts.iter().find(|entry| entry["receiver"] == receiver);
    found
        .and_then(|entry| entry["verdict"].as_str())
        .expect("verdict")
}

#[test]
fn a_sender_is_seen_as_receivers_see_it() {
    let sender = sender();
    let config = sender.path("hikyaku.toml");
    let config = ["--config", config.to_str().expect("path")];
    let bounce = ["--reverse-path", "b-1@bounce.shop.test"];

    let (status, report) = sender.check("good.eml", &[&config[..], &bounce].concat());
    assert_eq!((status, ids(&report)), (0, vec![]), "{report:#}");
    assert_eq!(verdict(&report, "gmail"), "ok");
    let dns = &report["dns"];
    assert_eq!(dns["sources"][0]["spf"], "pass", "{dns:#}");
    assert_eq!(dns["sources"][0]["confirmed"], "out1.shop.test");
    assert_eq!(dns["dmarc"]["policy"], "reject");
    assert_eq!(dns["keys"][0]["aligned"], true);

    // An address that the record does not name, below a zone smaller than /24; its name leads elsewhere.
    let other = [
        &config[..],
        &bounce,
        &["--from-ip", "127.0.4.8,out1.shop.test"],
    ]
    .concat();
    let (status, report) = sender.check("good.eml", &other);
    assert_eq!(status, 1);
    let mut found = ids(&report);
    found.sort_unstable();
    assert_eq!(
        found,
        ["helo", "ptr-forward", "spf-from", "spf-result"],
        "{report:#}"
    );
    assert_eq!(verdict(&report, "gmail"), "refused likely");
    assert_eq!(verdict(&report, "docomo"), "at risk");

    // Includes in a circle, and a zone that does not answer.
    for (domain, expected) in [("loop", "spf-result"), ("dead", "dns-unanswered")] {
        let path = format!("b@{domain}.test");
        let args = [&config[..], &["--reverse-path", &path]].concat();
        let (_, report) = sender.check("good.eml", &args);
        assert!(ids(&report).contains(&expected), "{domain}: {report:#}");
    }

    // Without settings nothing signs, and the message says less than it must.
    let good = fs::read_to_string(sender.path("good.eml")).expect("message");
    let bad = good.replace("List-Unsubscribe-Post: List-Unsubscribe=One-Click\n", "");
    fs::write(sender.path("bad.eml"), bad).expect("message");
    let resolver = sender.nsd.address.to_string();
    let args = ["--resolver", &resolver, "--from-ip", "127.0.4.7"];
    let (status, report) = sender.check("bad.eml", &args);
    assert_eq!(status, 1);
    assert_eq!(
        ids(&report),
        ["list-unsubscribe-post", "dkim-missing", "dmarc-one-leg"],
        "{report:#}"
    );

    // The same without a message, beside settings and host.
    for (domain, expected) in [
        ("shop.test", "nothing was found"),
        ("loop.test", "FAIL spf-result"),
    ] {
        let output = Command::new("timeout")
            .args([
                "-k",
                "5",
                "100",
                HIKYAKU,
                "check",
                "--development",
                "--config",
            ])
            .arg(sender.path("hikyaku.toml"))
            .args(["--domain", domain])
            .output()
            .expect("check");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(expected), "{text}");
    }

    let (status, report) = sender.check("good.eml", &["--offline", "--transactional"]);
    assert_eq!((status, &report["dns"]), (0, &Value::Null), "{report:#}");
}
