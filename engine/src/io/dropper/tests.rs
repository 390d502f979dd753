//! Round trips: what is dropped is what the engine's side finds and parses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::wait::read_receipt;
use super::*;
use crate::ingest::{Parser, Refusal};
use crate::io::dropdir::{ChunkReader, DropDir, DropLimits, Receipt, ReceiptState};
use crate::mail::id::SubmissionId;
use crate::shard::Now;
use crate::time::{Instant, WallTime};

const NOW: Now = Now {
    mono: Instant::from_nanos(1_000_000_000),
    wall: WallTime::from_unix_millis(1_700_000_000_000),
};

struct Fixture {
    tmp: tempfile::TempDir,
    drop_dir: DropDir,
}

impl Fixture {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let drop_dir = DropDir::open(&tmp.path().join("drop"), DropLimits::default()).unwrap();
        Self { tmp, drop_dir }
    }

    fn dir(&self) -> PathBuf {
        self.tmp.path().join("drop")
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.tmp.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn options(&self, sources: &[PathBuf]) -> DropOptions {
        let sources = sources
            .iter()
            .map(|path| Source::detect(path).unwrap())
            .collect();
        DropOptions {
            dir: self.dir(),
            sources,
            ..DropOptions::default()
        }
    }

    fn entries(&self, part: &str) -> usize {
        fs::read_dir(self.dir().join(part)).unwrap().count()
    }

    /// Claims and parses everything: file name, and per message "from>to,to content".
    fn take_all(&mut self) -> Vec<(String, Vec<String>)> {
        let mut candidates = Vec::new();
        assert!(
            self.drop_dir
                .scan(usize::MAX, NOW, &mut candidates)
                .unwrap()
                .complete
        );
        candidates.sort_by(|a, b| a.name.cmp(&b.name));
        let mut all = Vec::new();
        for (id, candidate) in candidates.iter().enumerate() {
            let mut claimed = self
                .drop_dir
                .claim(&candidate.name, SubmissionId(id as u128), NOW)
                .unwrap();
            let mut parser =
                Parser::new(Format::of_name(&claimed.name).unwrap(), Limits::default());
            let mut reader = ChunkReader::new(64);
            let mut messages = Vec::new();
            while let Some(chunk) = reader.read(&mut claimed).unwrap() {
                parser.feed(&chunk, &mut messages).unwrap();
            }
            let summary = parser.finish(&mut messages).unwrap();
            assert!(claimed.unchanged().unwrap());
            let receipt = Receipt::accepted(&claimed.name, claimed.submission, summary, NOW.wall);
            self.drop_dir
                .write_receipt(&claimed.name, &receipt)
                .unwrap();
            self.drop_dir.done(&claimed, NOW).unwrap();
            let texts = messages.iter().map(|message| {
                let envelope = &message.envelope;
                let labels = [&envelope.job, &envelope.envid, &envelope.source]
                    .map(|label| label.as_deref().unwrap_or(""));
                format!(
                    "{}>{}{} {}",
                    envelope.reverse_path,
                    envelope.recipients.join(","),
                    if labels == [""; 3] {
                        String::new()
                    } else {
                        format!(" {labels:?}")
                    },
                    message.content.as_slice().escape_ascii()
                )
            });
            all.push((candidate.name.clone(), texts.collect()));
        }
        all
    }
}

fn texts(files: Vec<(String, Vec<String>)>) -> Vec<String> {
    files.into_iter().flat_map(|(_, texts)| texts).collect()
}

#[test]
fn files_with_and_without_envelope_lines() {
    let mut f = Fixture::new();
    let with = f.file(
        "with.eml",
        "x-sender: a@b\nx-receiver: c@d\nx-job: j\nFrom: x\n\nhi\n",
    );
    let without = f.file("without.eml", "From: x\n\n.hi");
    let report = run(&f.options(std::slice::from_ref(&with))).unwrap();
    assert_eq!(
        (report.files.len(), report.messages(), report.recipients()),
        (1, 1, 1)
    );
    let files = f.take_all();
    assert_eq!(files[0].0, report.files[0].name);
    assert_eq!(
        texts(files),
        ["a@b>c@d [\"j\", \"\", \"\"] From: x\\r\\n\\r\\nhi\\r\\n"]
    );

    let options = DropOptions {
        reverse_path: Some(String::new()),
        recipients: vec!["e@F.test".into(), "é@g".into()],
        envid: Some("id".into()),
        egress: Some("pool".into()),
        ..f.options(&[with, without])
    };
    assert_eq!(run(&options).unwrap().recipients(), 4);
    let expected = [
        ">e@f.test,é@g [\"j\", \"id\", \"pool\"] From: x\\r\\n\\r\\nhi\\r\\n",
        ">e@f.test,é@g [\"\", \"id\", \"pool\"] From: x\\r\\n\\r\\n.hi\\r\\n",
    ];
    assert_eq!(texts(f.take_all()), expected);
    assert_eq!((f.entries("tmp"), f.entries("new")), (0, 0));
}

#[test]
fn recipients_are_never_guessed() {
    let mut f = Fixture::new();
    let path = f.file(
        "m.eml",
        "From: News <n@out.test>\nTo: \"A, B\" <a@mx.test>, c@mx.test\nCc: d@mx.test\nBcc: e@mx.test,\n f@mx.test\nSubject: s\n\nBcc: body\n",
    );
    let options = f.options(&[path]);
    assert!(matches!(run(&options), Err(DropError::NoRecipients(_))));
    let options = DropOptions {
        recipients: vec!["a@b".into()],
        ..options
    };
    assert!(matches!(run(&options), Err(DropError::NoReversePath(_))));
    let options = DropOptions {
        recipients: vec![],
        to_header: true,
        ..options
    };
    run(&options).unwrap();
    let text = texts(f.take_all()).remove(0);
    assert!(
        text.starts_with("n@out.test>a@mx.test,c@mx.test,d@mx.test,e@mx.test,f@mx.test From:"),
        "{text}"
    );
    assert!(
        !text.contains("e@mx.test,\\n") && text.ends_with("Subject: s\\r\\n\\r\\nBcc: body\\r\\n"),
        "{text}"
    );

    let path = f.file(
        "bad.eml",
        "From: n@out.test\nTo: a@mx.test, not an address\n\n",
    );
    let options = DropOptions {
        to_header: true,
        ..f.options(&[path])
    };
    assert!(matches!(
        run(&options),
        Err(DropError::Header { field: "To", .. })
    ));
}

#[test]
fn a_bad_message_drops_nothing() {
    let f = Fixture::new();
    let good = f.file(
        "good.eml",
        "x-sender: a@b\nx-receiver: c@d\nFrom: x\n\nhi\n",
    );
    let bad = f.file(
        "bad.eml",
        "x-sender: a@b\nx-receiver: c@d\nFrom: x\n\nh\0i\n",
    );
    for batch in [None, NonZeroUsize::new(1), NonZeroUsize::new(10)] {
        let options = DropOptions {
            batch,
            ..f.options(&[good.clone(), bad.clone()])
        };
        let Err(DropError::Refused { origin, refusal }) = run(&options) else {
            panic!()
        };
        assert!(origin.ends_with("bad.eml"));
        assert_eq!((refusal.code, refusal.line), ("nul", 5));
        assert_eq!((f.entries("tmp"), f.entries("new")), (0, 0));
        // Lines are those of the file, also when our own envelope lines are more.
        let options = DropOptions {
            recipients: vec!["a@b".into(), "c@d".into(), "e@f".into()],
            job: Some("j".into()),
            ..options
        };
        assert!(
            matches!(run(&options), Err(DropError::Refused { refusal, .. }) if refusal.line == 5)
        );
    }
    let bad = |change: fn(&mut DropOptions)| {
        let mut options = f.options(std::slice::from_ref(&good));
        change(&mut options);
        run(&options).unwrap_err()
    };
    assert!(matches!(
        bad(|o| o.recipients = vec!["a b@c".into()]),
        DropError::Option { option: "--to", .. }
    ));
    assert!(matches!(
        bad(|o| o.reverse_path = Some("x".into())),
        DropError::Option {
            option: "--from",
            ..
        }
    ));
    assert!(matches!(
        bad(|o| o.job = Some("a\nx-receiver: b@c".into())),
        DropError::Refused { .. }
    ));
    assert!(matches!(
        bad(|o| o.dir.push("missing")),
        DropError::NoDirectory { .. }
    ));
    assert_eq!((f.entries("tmp"), f.entries("new")), (0, 0));
}

#[test]
fn batches() {
    let mut f = Fixture::new();
    let sources: Vec<_> = (0..5)
        .map(|i| {
            f.file(
                &format!("{i}.eml"),
                format!("x-sender: a@b\nx-receiver: c@d\nFrom: {i}\n\n.dot\n.\n"),
            )
        })
        .collect();
    let options = DropOptions {
        batch: NonZeroUsize::new(2),
        job: Some("j=+".into()),
        ..f.options(&sources)
    };
    let report = run(&options).unwrap();
    assert_eq!(
        report
            .files
            .iter()
            .map(|file| file.messages)
            .collect::<Vec<_>>(),
        [2, 2, 1]
    );
    assert!(
        report
            .files
            .iter()
            .all(|file| file.name.ends_with(".bsmtp"))
    );
    let expected: Vec<_> = (0..5)
        .map(|i| format!("a@b>c@d [\"j=+\", \"\", \"\"] From: {i}\\r\\n\\r\\n.dot\\r\\n.\\r\\n"))
        .collect();
    let first = f.dir().join("new").join(&report.files[0].name);
    let copy = f.file("copy.bsmtp", fs::read(first).unwrap());
    assert_eq!(texts(f.take_all()), expected);

    // A batch stays one, split only when asked for.
    run(&f.options(std::slice::from_ref(&copy))).unwrap();
    assert_eq!(
        f.take_all()
            .iter()
            .map(|(_, texts)| texts.len())
            .collect::<Vec<_>>(),
        [2]
    );
    let options = DropOptions {
        batch: NonZeroUsize::new(1),
        recipients: vec!["x@y".into()],
        ..f.options(&[copy])
    };
    run(&options).unwrap();
    let files = f.take_all();
    assert_eq!(files.len(), 2);
    assert!(files[1].1[0].starts_with("a@b>x@y "));
}

#[test]
fn mbox_and_maildir() {
    let mut f = Fixture::new();
    let mbox = f.file(
        "box",
        "From a@b Mon\nFrom: 1\n\n>From here\n>>From there\nFrom inside, no separator\n\nFrom c@d Tue\nFrom: 2\n\nlast\n",
    );
    let to = |f: &Fixture, sources: &[PathBuf]| DropOptions {
        reverse_path: Some("s@o".into()),
        recipients: vec!["r@m".into()],
        ..f.options(sources)
    };
    run(&to(&f, &[mbox])).unwrap();
    let expected = [
        "s@o>r@m From: 1\\r\\n\\r\\nFrom here\\r\\n>From there\\r\\nFrom inside, no separator\\r\\n",
        "s@o>r@m From: 2\\r\\n\\r\\nlast\\r\\n",
    ];
    assert_eq!(texts(f.take_all()), expected);
    let not = f.file("not", "From: x\n\n");
    let options = DropOptions {
        sources: vec![Source::Mbox(not)],
        ..to(&f, &[])
    };
    assert!(matches!(run(&options), Err(DropError::NotMbox(_))));

    f.file("md/cur/2:2,S", "From: 2\n\n");
    f.file("md/new/1", "From: 1\n\n");
    f.file("md/new/.hidden", "x");
    let maildir = f.tmp.path().join("md");
    fs::create_dir(maildir.join("tmp")).unwrap();
    run(&to(&f, std::slice::from_ref(&maildir))).unwrap();
    assert_eq!(
        texts(f.take_all()),
        ["s@o>r@m From: 1\\r\\n\\r\\n", "s@o>r@m From: 2\\r\\n\\r\\n"]
    );
    assert!(Source::detect(f.tmp.path()).is_err());
    assert_eq!(Source::detect(Path::new("-")).unwrap(), Source::Stdin);
}

#[test]
fn sizes_are_bounded() {
    let f = Fixture::new();
    let path = f.file("big.eml", vec![b'x'; 2 << 20]);
    let limits = Limits {
        message_bytes_max: 1000,
        ..Limits::default()
    };
    let options = DropOptions {
        limits,
        ..f.options(&[path])
    };
    assert!(matches!(
        run(&options),
        Err(DropError::TooLarge {
            bytes_max: 1000,
            ..
        })
    ));
}

#[test]
fn waiting_for_receipts() {
    let mut f = Fixture::new();
    let path = f.file("m.eml", "x-sender: a@b\nx-receiver: c@d\nFrom: x\n\nhi\n");
    let report = run(&f.options(&[path.clone(), path.clone(), path])).unwrap();
    let names: Vec<String> = report.files.iter().map(|file| file.name.clone()).collect();
    let none = wait(
        &f.dir(),
        &names,
        ReceiptState::Accepted,
        Duration::ZERO,
        |_| {},
    )
    .unwrap();
    assert!(none.iter().all(|outcome| outcome.receipt.is_none()));

    // One refused, one accepted and still without final state, one final.
    let refused = f.drop_dir.claim(&names[0], SubmissionId(70), NOW).unwrap();
    f.drop_dir
        .quarantine(refused, &Refusal::at("nul", 3, 4, "a NUL"), NOW)
        .unwrap();
    f.take_all();
    let dir = f.dir();
    let receipt = read_receipt(&dir, &names[2])
        .unwrap()
        .unwrap()
        .into_final(NOW.wall);
    f.drop_dir
        .write_receipt(
            &names[2],
            &Receipt {
                delivered: 1,
                ..receipt
            },
        )
        .unwrap();
    let mut heard = Vec::new();
    let outcomes = wait(
        &dir,
        &names,
        ReceiptState::Accepted,
        Duration::from_secs(60),
        |n| heard.push(n),
    )
    .unwrap();
    let states: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.receipt.as_ref().unwrap().state)
        .collect();
    assert_eq!(
        states,
        [
            ReceiptState::Refused,
            ReceiptState::Accepted,
            ReceiptState::Final
        ]
    );
    assert_eq!(
        outcomes[0]
            .receipt
            .as_ref()
            .unwrap()
            .reason
            .as_ref()
            .unwrap()
            .line,
        3
    );
    assert_eq!(heard, [3]);
    let mut heard = Vec::new();
    wait(
        &dir,
        &names,
        ReceiptState::Final,
        Duration::from_millis(15),
        |n| heard.push(n),
    )
    .unwrap();
    assert_eq!(heard, [2]);

    // The reason is found also when the receipt was never written.
    fs::remove_file(dir.join("receipts").join(format!("{}.json", names[0]))).unwrap();
    let outcomes = wait(
        &dir,
        &names[..1],
        ReceiptState::Final,
        Duration::ZERO,
        |_| {},
    )
    .unwrap();
    assert_eq!(
        outcomes[0]
            .receipt
            .as_ref()
            .unwrap()
            .reason
            .as_ref()
            .unwrap()
            .code,
        "nul"
    );
}

#[test]
fn a_name_in_use_is_not_replaced() {
    let f = Fixture::new();
    let path = f.file("m.eml", "x-sender: a@b\nx-receiver: c@d\nFrom: x\n\nhi\n");
    let mut dropper = Dropper::open(&f.dir()).unwrap();
    let message = Overrides::of(&DropOptions::default())
        .unwrap()
        .compose("m", &fs::read(path).unwrap(), &DropOptions::default())
        .unwrap()
        .0;
    for _ in 0..2 {
        let mut file = dropper.stage(Format::Eml).unwrap();
        file.append(&message).unwrap();
        dropper.finish(file).unwrap();
    }
    drop(dropper.stage(Format::Eml).unwrap());
    let taken = f.dir().join("new").join(&dropper.staged[1].name);
    fs::write(&taken, "another's").unwrap();
    let Err(DropError::Partly { dropped, of: 2, .. }) = dropper.commit() else {
        panic!()
    };
    assert_eq!(dropped.len(), 1);
    assert_eq!(fs::read(&taken).unwrap(), b"another's");
    assert_eq!((f.entries("tmp"), f.entries("new")), (0, 2));
}

#[test]
fn a_key_is_for_one_file() {
    let mut f = Fixture::new();
    let plain = f.file("p.eml", "x-sender: a@b\nx-receiver: c@d\nFrom: x\n\nhi\n");
    let keyed = f.file(
        "k.eml",
        "x-sender: a@b\nx-idempotency-key: own\nx-receiver: c@d\nFrom: x\n\nhi\n",
    );
    let batch = f.file(
        "b.bsmtp",
        "MAIL FROM:<a@b> XKEY=own\nRCPT TO:<c@d>\nDATA\nFrom: x\n\nhi\n.\n",
    );
    let dropped = |f: &Fixture, files: &[Dropped]| -> Vec<String> {
        files
            .iter()
            .map(|file| {
                fs::read_to_string(f.dir().join("new").join(&file.name))
                    .unwrap()
                    .lines()
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    let with = |f: &Fixture, sources: &[PathBuf], key: Option<&str>, per_file: usize| DropOptions {
        key: key.map(str::to_owned),
        batch: NonZeroUsize::new(per_file),
        ..f.options(sources)
    };
    // Its own line stays, --key wins, and a batch gets it on its first MAIL.
    let one = [keyed.clone()];
    for (options, first) in [
        (with(&f, &one, None, 0), "x-idempotency-key: own"),
        (with(&f, &one, Some("other"), 0), "x-idempotency-key: other"),
        (
            with(&f, &[plain.clone(), plain.clone()], Some("a+b"), 2),
            "MAIL FROM:<a@b> XKEY=a+2Bb",
        ),
    ] {
        let report = run(&options).unwrap();
        assert_eq!(dropped(&f, &report.files), [first]);
        f.take_all();
    }
    for (options, said) in [
        (
            with(&f, &[plain.clone(), plain.clone()], Some("k"), 0),
            "--key names one drop file",
        ),
        (
            with(&f, &[plain.clone(), plain.clone(), plain], Some("k"), 2),
            "--key names one drop file",
        ),
        (with(&f, &one, None, 5), "leave --batch out"),
        (with(&f, &[batch], None, 0), "remove it and give --key"),
        (with(&f, &one, Some("two words"), 0), "--key"),
    ] {
        let error = run(&options).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!((f.entries("tmp"), f.entries("new")), (0, 0));
    }
}

#[test]
fn a_merge_is_dropped_as_it_is_or_not_at_all() {
    let fixture = Fixture::new();
    let message = "MAIL FROM:<s@a.test>\nRCPT TO:<r@b.test>\nDATA\nFrom: s\n\nhi\n.\n";
    let merge = "XACK ON\nXMRG FROM:<s@a.test>\nXDFN x=1\nRCPT TO:<r@b.test>\nXDFN x=2\nRCPT TO:<R@b.test>\n\
        RCPT TO:<r@B.test>\nXPRT 1 LAST\nFrom: s\n\nhi [x]\n.\n";
    let good = fixture.file("good.bsmtp", merge);
    let before = fixture.file("before.bsmtp", message);
    // In one go with others, and each file for itself.
    let report = run(&fixture.options(&[before, good.clone()])).unwrap();
    let counts: Vec<_> = report
        .files
        .iter()
        .map(|file| (file.messages, file.recipients))
        .collect();
    assert_eq!(counts, [(1, 1), (2, 2)]);
    let new = fixture.dir().join("new").join(&report.files[1].name);
    assert_eq!(fs::read_to_string(new).unwrap(), merge);
    let left = fixture.entries("new");

    let cases = [
        (merge.replace("x=2", "y=2"), "line 6", "names [x]"),
        (merge.replace(" LAST", ""), "line 13", "the LAST"),
        (
            merge.replace("FROM:<s@a.test>", "TO:x"),
            "line 2",
            "write XMRG FROM",
        ),
        (message.to_owned() + merge, "line 9", "a file of its own"),
        ("XMRG FROM:<s@a.test>".to_owned(), "line 1", "cut off"),
    ];
    for (text, line, what) in cases {
        let bad = fixture.file("bad.bsmtp", &text);
        let error = run(&fixture.options(&[bad])).expect_err(&text).to_string();
        assert!(error.contains(line) && error.contains(what), "{error}");
    }
    let with = |change: fn(&mut DropOptions)| {
        let mut options = fixture.options(std::slice::from_ref(&good));
        change(&mut options);
        run(&options).expect_err("refused").to_string()
    };
    assert!(with(|options| options.key = Some("k".into())).contains("--key"));
    assert!(with(|options| options.recipients = vec!["a@b.test".into()]).contains("--to"));
    assert!(with(|options| options.batch = NonZeroUsize::new(1)).contains("--batch"));
    assert_eq!((fixture.entries("new"), fixture.entries("tmp")), (left, 0));
}
