//! STARTTLS with OpenSSL on the other side: Postfix with a certificate that nobody signed.

use serde_json::Value;

use crate::engine::{Engine, Run};
use crate::postfix::Postfix;

const BODY: &[u8] = b"From: own@sender.test\nSubject: tls\n\nbody\n.dot\n";

fn deliver(postfix: &Postfix, tls: &str, config: Option<String>) -> Run {
    let engine = Engine::new();
    for number in 0..20 {
        // More than one write and more than one TLS record.
        let content = [
            BODY,
            &b"a line of a message that does not fit into one record\n".repeat(number * 400),
        ]
        .concat();
        engine.drop_message(
            &format!("m{number}"),
            &["box@mailbox.test".to_owned()],
            &content,
        );
    }
    let route = format!("*={}", postfix.address);
    let mut args = vec![
        "--route",
        &route,
        "--tls",
        tls,
        "--retry-first",
        "1s",
        "--retry-max",
        "1s",
        "--expire",
        "2s",
    ];
    let path = engine.path("settings.toml");
    if let Some(config) = config {
        std::fs::write(&path, config).expect("settings");
        args.extend(["--config", path.to_str().expect("UTF-8")]);
    }
    let run = engine.run(&args);
    run.assert_balanced(20);
    run
}

fn assert_delivered_with_tls(run: &Run, postfix: &Postfix) {
    assert_eq!(
        run.count("delivered"),
        20,
        "{:?}\n{}",
        run.log.first(),
        postfix.log_end()
    );
    for line in &run.log {
        let version = line["tls"]["version"].as_str().unwrap_or_default();
        let cipher = line["tls"]["cipher"].as_str().unwrap_or_default();
        assert!(
            version.starts_with("TLSv1.3") && cipher.contains("AES") || cipher.contains("CHACHA"),
            "{line}"
        );
    }
    // Both sides agree on what happened.
    assert!(
        postfix.log().contains("TLS connection established from"),
        "{}",
        postfix.log_end()
    );
    let messages = postfix.messages("box");
    assert_eq!(messages.len(), 20);
    assert!(
        messages
            .iter()
            .all(|stored| stored.windows(13).any(|part| part == b"(using TLSv1.")),
        "a Received field says so"
    );
}

#[test]
fn opportunistic_tls_is_used_where_offered() {
    let postfix = Postfix::start(&["box"], true);
    assert_delivered_with_tls(&deliver(&postfix, "opportunistic", None), &postfix);
}

#[test]
fn required_tls_delivers_without_a_list_of_roots() {
    let postfix = Postfix::start(&["box"], true);
    assert_delivered_with_tls(&deliver(&postfix, "required", None), &postfix);
}

#[test]
fn required_tls_verifies_against_given_roots() {
    let postfix = Postfix::start(&["box"], true);
    let trusting = format!(
        "[tls]\nverify = true\nca_file = \"{}\"\n",
        postfix.certificate.display()
    );
    assert_delivered_with_tls(&deliver(&postfix, "required", Some(trusting)), &postfix);
    // Another Postfix's certificate is not this one's.
    let other = Postfix::start(&["box"], true);
    let distrusting = format!(
        "[tls]\nverify = true\nca_file = \"{}\"\n",
        postfix.certificate.display()
    );
    let run = deliver(&other, "required", Some(distrusting));
    assert_deferred(&run, "starttls");
    assert!(other.messages("box").is_empty());
}

#[test]
fn required_tls_defers_where_none_is_offered() {
    let postfix = Postfix::start(&["box"], false);
    assert_deferred(&deliver(&postfix, "required", None), "");
    assert!(
        postfix.messages("box").is_empty(),
        "nothing goes out in clear"
    );
    // The same receiver, without the demand: in clear.
    let run = deliver(&postfix, "opportunistic", None);
    assert_eq!(run.count("delivered"), 20);
    assert!(
        run.log
            .iter()
            .all(|line| line.get("tls") == Some(&Value::Null)),
        "{:?}",
        run.log.first()
    );
    assert_eq!(postfix.messages("box").len(), 20);
}

/// Every recipient was deferred, none bounced, and expired in the end. `phase`: where, if it matters.
fn assert_deferred(run: &Run, phase: &str) {
    assert_eq!(
        (run.count("expired"), run.count("bounced")),
        (20, 0),
        "{}",
        run.report
    );
    let deferrals: Vec<&Value> = run
        .log
        .iter()
        .filter(|line| line["type"] == "deferral")
        .collect();
    // The host is at fault: one recipient hears for all.
    assert!(!deferrals.is_empty(), "{}", run.report);
    for line in deferrals {
        assert!(phase.is_empty() || line["phase"] == phase, "{line}");
        assert_eq!(line["class"], "tls-failed", "{line}");
    }
    assert_eq!(run.status, 3, "not everything was delivered");
}
