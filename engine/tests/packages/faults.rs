//! Postfix's `smtp-sink`: many messages, each once; and refusals, deferrals and closed connections
//! at every stage, after which the account still adds up.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::corpus::wire;
use crate::engine::Engine;
use crate::server::free_port;
use crate::smtp_sink::{Dump, SmtpSink, at};

#[test]
fn two_thousand_messages_arrive_once_each() {
    let address = at("127.0.0.1", free_port());
    let sink = SmtpSink::start(address, &[]);
    let engine = Engine::new();
    let padding = "a line of text that makes the message longer ....\n".repeat(60);
    // Ten files of a hundred messages, a thousand files of one, over fifty domains.
    let body =
        |number: u32| format!("From: own@sender.test\nX-Number: {number}\n\n.\n..dots\n{padding}");
    let recipient = |number: u32| format!("r{number}@d{}.test", number % 50);
    for file in 0..10 {
        let mut text = String::from("EHLO sender.test\r\n");
        for number in file * 100..(file + 1) * 100 {
            let content = String::from_utf8(wire(body(number).as_bytes())).expect("ASCII");
            let stuffed = content.replace("\r\n.", "\r\n..");
            let _ = write!(
                text,
                "MAIL FROM:<s@sender.test>\r\nRCPT TO:<{}>\r\nDATA\r\n{stuffed}.\r\n",
                recipient(number)
            );
        }
        text.push_str("QUIT\r\n");
        engine.drop_file(&format!("batch{file}.bsmtp"), text.as_bytes());
    }
    for number in 1000..2000 {
        engine.drop_message(
            &format!("m{number}"),
            &[recipient(number)],
            body(number).as_bytes(),
        );
    }
    let run = engine.run(&[
        "--route",
        &format!("*={address}"),
        "--tls",
        "never",
        "--shards",
        "2",
    ]);
    run.assert_balanced(2000);
    assert_eq!(
        (
            run.count("delivered"),
            run.count("deferred_attempts"),
            run.status
        ),
        (2000, 0, 0),
        "{}",
        run.report
    );

    let mut seen = HashMap::new();
    for Dump {
        recipients,
        content,
    } in sink.dumps()
    {
        assert_eq!(recipients.len(), 1);
        let text = String::from_utf8(content).expect("ASCII");
        let number: u32 = text
            .split("X-Number: ")
            .nth(1)
            .and_then(|rest| rest.lines().next())
            .expect("a number")
            .parse()
            .expect("a number");
        assert_eq!(recipients[0], recipient(number));
        assert_eq!(text, body(number));
        *seen.entry(number).or_insert(0) += 1;
    }
    assert_eq!(
        seen.len(),
        2000,
        "lost: {:?}",
        (0..2000)
            .filter(|number| !seen.contains_key(number))
            .take(20)
            .collect::<Vec<_>>()
    );
    assert!(
        seen.values().all(|&count| count == 1),
        "twice: {:?}",
        seen.iter()
            .filter(|(_, count)| **count > 1)
            .collect::<Vec<_>>()
    );
}

/// What becomes of recipients behind a sink that treats a command so.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Delivered,
    Bounced,
    /// Deferred until too old.
    Expired,
}

/// A sink's options, and where its recipients end.
struct Case {
    option: &'static str,
    command: &'static str,
    end: End,
    /// Phase of the deferral or bounce as logged.
    phase: &'static str,
}

const fn case(option: &'static str, command: &'static str, end: End, phase: &'static str) -> Case {
    Case {
        option,
        command,
        end,
        phase,
    }
}

/// -f: 5yz, -r: 4yz, -q: closes without a reply, -Q: 421 and closes.
const CASES: &[Case] = &[
    // Nobody has spoken about a message yet: never a bounce.
    case("-f", "CONNECT", End::Expired, "greeting"),
    case("-f", "EHLO,HELO", End::Expired, "ehlo"),
    // HELO is tried where EHLO is unknown.
    case("-f", "EHLO", End::Delivered, ""),
    case("-f", "MAIL", End::Bounced, "mail"),
    case("-f", "RCPT", End::Bounced, "rcpt"),
    case("-f", "DATA", End::Bounced, "data"),
    case("-f", ".", End::Bounced, "dot"),
    // Behind the delivery: changes nothing.
    case("-f", "QUIT", End::Delivered, ""),
    case("-r", "CONNECT", End::Expired, "greeting"),
    case("-r", "EHLO,HELO", End::Expired, "ehlo"),
    case("-r", "MAIL", End::Expired, "mail"),
    case("-r", "RCPT", End::Expired, "rcpt"),
    case("-r", "DATA", End::Expired, "data"),
    case("-r", ".", End::Expired, "dot"),
    case("-q", "CONNECT", End::Expired, "greeting"),
    case("-q", "EHLO", End::Expired, "ehlo"),
    case("-q", "MAIL", End::Expired, "mail"),
    case("-q", "RCPT", End::Expired, "rcpt"),
    case("-q", "DATA", End::Expired, "data"),
    // The reply to the final dot is lost: the peer may have the message.
    case("-q", ".", End::Expired, "dot"),
    case("-q", "QUIT", End::Delivered, ""),
    case("-Q", "MAIL", End::Expired, "mail"),
    case("-Q", "RCPT", End::Expired, "rcpt"),
    case("-Q", "DATA", End::Expired, "data"),
    case("-Q", ".", End::Expired, "dot"),
];

/// Messages per case, the last of them with two recipients.
const MESSAGES: usize = 5;

#[test]
fn every_fault_is_accounted_for() {
    check(&[]);
}

/// The same without PIPELINING, where each reply is waited for (`-f` and `-r` imply that already).
#[test]
fn every_fault_is_accounted_for_without_extensions() {
    check(&["-p", "-8", "-E"]);
}

fn check(options: &[&str]) {
    let engine = Engine::new();
    let mut args: Vec<String> = [
        "--tls",
        "never",
        "--retry-first",
        "1s",
        "--retry-max",
        "1s",
        "--expire",
        "3s",
    ]
    .map(str::to_owned)
    .into();
    let mut sinks = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        // An address each: sites on one address share its throttle.
        let address = at(&format!("127.0.2.{}", number + 1), free_port());
        sinks.push(SmtpSink::start(
            address,
            &[&[case.option, case.command], options].concat(),
        ));
        args.extend(["--route".to_owned(), format!("c{number}.test={address}")]);
        for message in 0..MESSAGES {
            let mut recipients = vec![format!("r{message}@c{number}.test")];
            if message + 1 == MESSAGES {
                recipients.push(format!("also@c{number}.test"));
            }
            let content = format!("From: own@sender.test\nX-Case: {number}\n\nbody {message}\n");
            engine.drop_message(
                &format!("c{number}m{message}"),
                &recipients,
                content.as_bytes(),
            );
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = engine.run(&args);

    let mut wrong = Vec::new();
    for (number, (case, sink)) in CASES.iter().zip(&sinks).enumerate() {
        let mut ends: HashMap<&str, usize> = HashMap::new();
        let domain = format!("c{number}.test");
        let lines: Vec<&Value> = run
            .log
            .iter()
            .filter(|line| line["domain"] == domain.as_str())
            .collect();
        for line in &lines {
            *ends
                .entry(line["type"].as_str().unwrap_or_default())
                .or_default() += 1;
        }
        let count = |kind: &str| ends.get(kind).copied().unwrap_or_default();
        let all = MESSAGES + 1;
        // Of a refusal that is about the host, one recipient hears for all.
        let least = if matches!(case.phase, "greeting" | "ehlo") {
            1
        } else {
            all
        };
        let fits = match case.end {
            End::Delivered => {
                count("delivered") == all && count("bounce") + count("expiration") == 0
            }
            End::Bounced => count("bounce") == all && lines.len() == all,
            End::Expired => {
                count("expiration") == all
                    && count("deferral") >= least
                    && count("delivered") + count("bounce") == 0
            }
        };
        let refusals = || {
            lines
                .iter()
                .filter(|line| line["type"] == "deferral" || line["type"] == "bounce")
        };
        let phases =
            case.end == End::Delivered || refusals().any(|line| line["phase"] == case.phase);
        if !fits || !phases {
            wrong.push(format!(
                "{} {}: {ends:?}, first {}",
                case.option,
                case.command,
                lines.first().map_or(&Value::Null, |line| line)
            ));
        }
        // What was delivered is there once; what bounced before the dot is not.
        if case.end == End::Delivered {
            let mut received: Vec<String> = sink
                .dumps()
                .into_iter()
                .flat_map(|dump| dump.recipients)
                .collect();
            received.sort();
            let before = received.len();
            received.dedup();
            if (before, received.len()) != (all, all) {
                wrong.push(format!(
                    "{} {}: received {received:?} of {before}",
                    case.option, case.command
                ));
            }
        }
        // Only where the reply to the dot was lost may there be a second copy, and the log says so.
        let doubt = lines.iter().any(|line| line["possible_duplicate"] == true);
        if doubt != (case.option == "-q" && case.command == ".") {
            wrong.push(format!(
                "{} {}: possible duplicates {doubt}",
                case.option, case.command
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\n{}\n{}",
        wrong.join("\n"),
        run.report,
        run.stderr
    );
    run.assert_balanced((CASES.len() * (MESSAGES + 1)) as u64);
}
