//! `hikyaku spool` on a spool where rows of a job wait.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod jobfile;
mod process;
mod support;

use std::collections::BTreeMap;
use std::fs;

use jobfile::{TEXT, archive, document};
use process::{Ended, spool};
use serde_json::Value;
use support::recording::Arrived;
use support::{Bed, all_to, until};

const ROWS: &str = "email,name\n\
    here@live.test,Here\n\
    ume@dead.test,梅\n\
    crab@dead.test,🦀\n\
    =q+q@dead.test,\"=1+1, \"\"q\"\"\"\n\
    dot@dead.test,.dot\n";
/// Those of whom a message can be made.
const GOOD: [&str; 3] = ["=q+q@dead.test", "dot@dead.test", "ume@dead.test"];

fn objects(ended: &Ended) -> Vec<Value> {
    let lines = ended.out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

#[test]
fn rows_that_wait_are_shown_and_exported_as_the_messages_they_become() {
    let bed = Bed::new();
    let sink = bed.sink("");
    let document = document("spring", "charset = \"iso-2022-jp\"");
    let text = TEXT.replace("Hello", "こんにちは");
    let files = [
        ("job.toml", &document),
        ("body.txt", &text),
        ("rows.csv", &ROWS.to_owned()),
    ];
    bed.drop_file("spring.job", archive(&files));
    let route = format!(
        "--route live.test={} --route *=127.0.0.3:1 --tls never --retry-first 1s --retry-max 1s",
        sink.addresses()[0]
    );
    let running = bed.start(&route);
    until("one was delivered", || {
        let receipt = bed.receipt("spring.job");
        assert_ne!(receipt["state"], "refused", "{receipt}");
        bed.log_of("delivered").len() == 1 && bed.receipt("spring.job")["state"] == "accepted"
    });
    let waiting = |kind: &str| {
        let all = objects(&spool(&bed.path(""), "ls --json --waiting")).into_iter();
        all.filter(|object| object["kind"] == kind)
            .collect::<Vec<_>>()
    };
    until("its mark is durable", || {
        waiting("rows").iter().all(|of| of["recipients_left"] == 4)
    });

    // What lies there, while the engine runs and after it was killed.
    let look = || {
        let (bundles, rows) = (waiting("bundle"), waiting("rows"));
        let ([bundle], [chunk]) = (&bundles[..], &rows[..]) else {
            panic!("{bundles:?} {rows:?}")
        };
        assert_eq!(
            (&bundle["job"], &bundle["recipients"]),
            (&"spring".into(), &0.into())
        );
        assert_eq!(
            (&chunk["recipients"], &chunk["recipients_left"]),
            (&5.into(), &4.into())
        );
        let id = |of: &Value| of["message"].as_str().expect("an id").to_owned();
        let (bundle, chunk) = (id(bundle), id(chunk));
        let listed = spool(&bed.path(""), "ls").out;
        for what in ["bundle of job spring", "rows of job spring", "left 4/5"] {
            assert!(listed.contains(what), "{what}: {listed}");
        }
        assert_eq!(spool(&bed.path(""), "verify").status, Some(0));
        let shown = spool(&bed.path(""), &format!("cat {bundle}"));
        assert!(shown.out.starts_with("# submission "), "{shown:?}");
        assert!(shown.out.contains("\n# columns email, name\n"), "{shown:?}");
        assert!(
            shown
                .out
                .contains(&format!("\n# file body.txt  bytes {}\n", text.len())),
            "{shown:?}"
        );
        assert!(shown.out.ends_with(&document), "{shown:?}");
        let shown = objects(&spool(&bed.path(""), &format!("cat {chunk}")));
        assert_eq!(shown.len(), 5, "{shown:?}");
        assert_eq!(shown[2]["recipient"], "crab@dead.test");
        assert_eq!(
            (&shown[2]["row"], &shown[2]["recipient_index"]),
            (&2.into(), &2.into())
        );
        assert_eq!(shown[3]["values"]["name"], "=1+1, \"q\"");
        assert_eq!(shown[3]["values"]["email"], "=q+q@dead.test");
    };
    look();
    running.kill();
    look();

    // One row that no message can be made of keeps no other from being exported.
    let exported = spool(&bed.path(""), "export --to rescued");
    assert_eq!(exported.status, Some(1), "{exported:?}");
    assert!(
        exported.err.contains("recipient 2 of message ") && exported.err.contains("row 2: "),
        "{exported:?}"
    );
    assert!(
        exported.out.contains("messages 3  recipients 3")
            && exported.out.contains("3 of them are rows of jobs")
            && exported.out.contains("makes second copies"),
        "{exported:?}"
    );
    let again = spool(&bed.path(""), "export --to rescued");
    assert!(
        again.out.contains("messages 0") && again.out.contains("3 files were there already"),
        "{again:?}"
    );

    // Dropped elsewhere they are the messages that this spool sends, byte for byte.
    let other = Bed::new();
    let (sink, elsewhere) = other.keeping_sink("");
    for entry in fs::read_dir(bed.path("rescued")).expect("list") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy();
        other.drop_file(&name, fs::read(&path).expect("read"));
    }
    let ended = other.once(&all_to(&sink));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 3),
        "{ended:?}"
    );
    let (sink, here) = bed.keeping_sink("");
    let ended = bed.once(&format!(
        "{} --retry-first 1s --retry-max 1s",
        all_to(&sink)
    ));
    assert_eq!(
        (ended.count("delivered"), ended.count("held")),
        (3, 1),
        "{ended:?}"
    );
    let of = |arrived: &Arrived| -> BTreeMap<String, Vec<Vec<u8>>> {
        let arrived = arrived.lock().expect("arrived").clone().into_iter();
        arrived
            .map(|(to, copies)| (to, copies.into_iter().map(|copy| copy.content).collect()))
            .collect()
    };
    assert_eq!(of(&here).keys().collect::<Vec<_>>(), GOOD);
    assert_eq!(of(&elsewhere), of(&here));
    assert!(
        other
            .log_of("delivered")
            .iter()
            .all(|line| line["job"] == "spring")
    );
}
