//! The suppression list at work, by the real binary: left out at ingest, and again before sending.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod process;
mod support;

use std::process::Command;
use std::time::Duration;

use hikyaku::job::archive::{write_end, write_header, write_padding};
use support::{Bed, all_to, content, until};

fn suppress(bed: &Bed, scope: &str, addresses: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command
        .args(["suppress", "add", "--list"])
        .arg(bed.path("suppressions"))
        .args(["--scope", scope, "--reason", "unsubscribe"])
        .args(addresses);
    let ended = process::run(command, b"", Duration::from_secs(60));
    assert_eq!(ended.status, Some(0), "{}", ended.err);
}

fn message(from: &str, header: &str, recipients: &[&str]) -> String {
    let mut text = String::from("x-sender: bounce@sender.test\r\n");
    for recipient in recipients {
        text += &format!("x-receiver: {recipient}\r\n");
    }
    text + &format!("From: {from}\r\n{header}Subject: hello\r\n\r\nhello\r\n")
}

fn run(bed: &Bed, more: &str) -> String {
    let list = bed.path("suppressions");
    format!("{more} --suppressions {}", list.display())
}

fn state_of(bed: &Bed, name: &str) -> Option<String> {
    let path = bed.path("drop/receipts").join(format!("{name}.json"));
    let receipt: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    receipt["state"].as_str().map(str::to_owned)
}

#[test]
fn every_scope_is_left_out_before_the_spool() {
    let bed = Bed::new();
    let sink = bed.sink("");
    suppress(&bed, "global", &["Gone@a.test"]);
    suppress(&bed, "sender:shop.test", &["shop@a.test"]);
    suppress(&bed, "list:news.shop.test", &["list@b.test"]);
    let everybody = ["gone@A.test", "shop@a.test", "list@b.test", "here@b.test"];
    let cases = [
        ("shop.eml", "News <n@shop.test>", "", 2),
        (
            "list.eml",
            "n@Shop.test",
            "List-Id: News <news.shop.test>\r\n",
            3,
        ),
        ("other.eml", "n@other.test", "", 1),
    ];
    for (name, from, header, _) in cases {
        bed.drop_file(name, message(from, header, &everybody));
    }
    bed.drop_file("none.eml", message("n@other.test", "", &["gone@a.test"]));
    let ended = bed.once(&run(&bed, &all_to(&sink)));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (name, _, _, suppressed) in cases {
        let receipt = bed.receipt(name);
        let counts = ["recipients", "suppressed", "delivered"].map(|key| receipt[key].as_u64());
        assert_eq!(receipt["state"], "final");
        assert_eq!(counts, [4, suppressed, 4 - suppressed].map(Some), "{name}");
    }
    let receipt = bed.receipt("none.eml");
    let counts = ["recipients", "suppressed", "delivered"].map(|key| receipt[key].as_u64());
    assert_eq!(counts, [1, 1, 0].map(Some));
    assert_eq!(receipt["state"], "final");
    assert_eq!(bed.names("claimed"), Vec::<String>::new());
    let mut arrived = bed.arrived();
    arrived.sort_unstable();
    let wanted = [
        "here@b.test",
        "here@b.test",
        "here@b.test",
        "list@b.test",
        "list@b.test",
        "shop@a.test",
    ];
    assert_eq!(arrived, wanted.map(str::to_owned));
    sink.stop().expect("stops");
}

#[test]
fn who_unsubscribes_after_acceptance_gets_nothing() {
    let bed = Bed::new();
    let sink = bed.sink("");
    // Nobody listens there: everybody waits.
    let nowhere = "--route *=127.0.0.3:1 --tls never --retry-first 1s --retry-max 1s";
    let running = bed.start(&run(&bed, nowhere));
    bed.drop_file(
        "m.eml",
        message("n@shop.test", "", &["a@a.test", "b@a.test", "c@a.test"]),
    );
    bed.drop_file("o.eml", message("n@shop.test", "", &["d@a.test"]));
    bed.drop_file("j.job", job(&["b@a.test", "e@b.test"]));
    until("accepted", || {
        ["m.eml", "o.eml", "j.job"]
            .iter()
            .all(|name| state_of(&bed, name).as_deref() == Some("accepted"))
    });
    running.kill();
    suppress(&bed, "sender:shop.test", &["b@a.test", "d@a.test"]);
    let ended = bed.once(&run(&bed, &all_to(&sink)));
    assert_eq!(ended.count("delivered"), 3, "{ended:?}");
    let mut arrived = bed.arrived();
    arrived.sort_unstable();
    assert_eq!(arrived, ["a@a.test", "c@a.test", "e@b.test"]);
    for (name, delivered) in [("m.eml", 2), ("o.eml", 0), ("j.job", 1)] {
        let receipt = bed.receipt(name);
        let counts = ["delivered", "cancelled"].map(|key| receipt[key].as_u64());
        assert_eq!(receipt["state"], "final");
        assert_eq!(counts, [delivered, 1].map(Some), "{name}");
    }
    let lines = bed.log_of("cancelled");
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert_eq!(line["class"], "local-suppressed");
        assert_eq!(line["reply"], "suppressed: sender:shop.test");
    }
    sink.stop().expect("stops");
}

#[test]
fn a_list_that_is_made_while_the_engine_runs_is_heeded() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let running = bed.start(&run(&bed, &all_to(&sink)));
    bed.drop_file("1.eml", message("n@shop.test", "", &["a@a.test"]));
    until("the first arrives", || bed.arrived().len() == 1);
    suppress(&bed, "global", &["a@a.test"]);
    // The engine looks for a list every 50 ms.
    std::thread::sleep(hikyaku_spool::suppressed::LOOK_EVERY * 2);
    bed.drop_file(
        "2.eml",
        message("n@shop.test", "", &["a@a.test", "b@a.test"]),
    );
    bed.drop_file("3.job", job(&["a@a.test", "c@a.test"]));
    until("final", || {
        ["2.eml", "3.job"]
            .iter()
            .all(|name| state_of(&bed, name).as_deref() == Some("final"))
    });
    for name in ["2.eml", "3.job"] {
        assert_eq!(bed.receipt(name)["suppressed"], 1, "{name}");
        assert_eq!(bed.receipt(name)["delivered"], 1, "{name}");
    }
    assert_eq!(bed.arrived().len(), 3);
    running.kill();
    sink.stop().expect("stops");
}

#[test]
fn a_list_that_cannot_be_read_sends_nothing_until_it_can() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let list = bed.path("suppressions");
    std::fs::create_dir(&list).expect("directory");
    std::fs::write(list.join("data.mdb"), [0x5a; 8192]).expect("written");
    let running = bed.start(&run(&bed, &all_to(&sink)));
    bed.drop_file("1.eml", message("n@shop.test", "", &["a@a.test"]));
    until("accepted", || state_of(&bed, "1.eml").is_some());
    // Nothing tells that it was looked at; a connection was made for it, and then it waits.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(bed.arrived(), Vec::<String>::new());
    running.kill();
    std::fs::remove_file(list.join("data.mdb")).expect("removed");
    suppress(&bed, "global", &["b@a.test"]);
    let ended = bed.once(&run(&bed, &all_to(&sink)));
    assert_eq!((ended.code, ended.count("delivered")), (Some(0), 1));
    sink.stop().expect("stops");
}

#[test]
fn who_is_suppressed_is_not_among_those_whom_a_control_file_cancelled() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let nowhere = "--route *=127.0.0.3:1 --tls never --retry-first 1s --retry-max 1s";
    let running = bed.start(&run(&bed, nowhere));
    let header = "x-job: spring\r\n";
    let text = message("n@shop.test", "", &["gone@a.test", "late@b.test"]);
    bed.drop_file(
        "s.eml",
        text.replacen("x-receiver", &format!("{header}x-receiver"), 1),
    );
    until("accepted", || state_of(&bed, "s.eml").is_some());
    running.kill();
    suppress(&bed, "global", &["gone@a.test"]);
    let address = sink.addresses()[0];
    let partly = format!("--route a.test={address} {nowhere}");
    let running = bed.start(&run(&bed, &partly));
    until("one is left out", || bed.log_of("cancelled").len() == 1);
    bed.drop_file("spring.cancel", "");
    until("cancelled", || {
        state_of(&bed, "spring.cancel").as_deref() == Some("final")
    });
    let receipt = bed.receipt("spring.cancel");
    let counts = ["recipients", "cancelled"].map(|key| receipt[key].as_u64());
    assert_eq!(counts, [1, 1].map(Some));
    until("final", || {
        state_of(&bed, "s.eml").as_deref() == Some("final")
    });
    assert_eq!(bed.receipt("s.eml")["cancelled"], 2);
    running.kill();
    sink.stop().expect("stops");
}

fn job(recipients: &[&str]) -> Vec<u8> {
    let document = "name = \"spring\"\nfrom = \"News <news@shop.test>\"\nreverse_path = \"bounce@shop.test\"\n\
         subject = \"Hello\"\n[content]\ntext = \"body.txt\"\n[recipients]\nfile = \"rows.csv\"\n";
    let mut rows = String::from("email\r\n");
    for recipient in recipients {
        rows += &format!("{recipient}\r\n");
    }
    let mut out = Vec::new();
    for (name, content) in [
        ("job.toml", document),
        ("body.txt", "hello\n"),
        ("rows.csv", &rows),
    ] {
        write_header(&mut out, name, content.len() as u64);
        out.extend_from_slice(content.as_bytes());
        write_padding(&mut out, content.len() as u64);
    }
    write_end(&mut out);
    out
}

#[test]
fn without_a_list_nobody_asks() {
    let bed = Bed::new();
    let sink = bed.sink("");
    bed.drop_file(
        "a.eml",
        message("n@shop.test", "", &["a@a.test"]) + &content(1),
    );
    let ended = bed.once(&run(&bed, &all_to(&sink)));
    assert_eq!((ended.code, ended.count("delivered")), (Some(0), 1));
    assert!(!bed.path("suppressions").exists());
    sink.stop().expect("stops");
}
