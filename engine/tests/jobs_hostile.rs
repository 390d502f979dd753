//! Hostile jobs and rows, dropped into a running engine as anybody may who may write there: each ends as documented, and
//! the jobs beside it go on.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod jobfile;
mod support;

use std::fmt::Write as _;

use jobfile::{TEXT, archive, document, entry, keeping_sink, patched};
use support::{Bed, all_to};

const GOOD: &str = "email,name\nann@a.test,Ann\n";

/// `job.toml`, `body.txt` and these rows.
fn with_rows(document: &str, rows: impl AsRef<[u8]>) -> Vec<u8> {
    archive(&[
        ("job.toml", document.as_bytes()),
        ("body.txt", TEXT.as_bytes()),
        ("rows.csv", rows.as_ref()),
    ])
}

fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

/// Rows that refuse their job: file, and what the receipt says of it.
fn bad_rows() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mega = "x".repeat(1 << 20);
    let field = |value: &str| format!("email,name\nann@a.test,{value}\n").into_bytes();
    vec![
        (
            "mega",
            field(&mega),
            "rows.csv line 2: field 2 is longer than 64 KiB",
        ),
        (
            "wide",
            format!(
                "email,name{}\nann@a.test,x{}\n",
                ",c".repeat(2000),
                ",".repeat(2000)
            )
            .into_bytes(),
            "rows.csv line 1: ",
        ),
        (
            "long-row",
            format!(
                "email,name,b,c,d,e\nann@a.test{}\n",
                format!(",{}", "x".repeat(60 << 10)).repeat(5)
            )
            .into_bytes(),
            "rows.csv line 2: the row is longer than 256 KiB",
        ),
        (
            "invalid-utf8",
            b"email,name\nann@a.test,\x93\xfa\n".to_vec(),
            "rows.csv line 2: column \"name\": not valid UTF-8",
        ),
        ("utf16", utf16(GOOD), "rows.csv line 1: "),
        (
            "nul",
            field("a\0b"),
            "rows.csv line 2: column \"name\" has a NUL",
        ),
        (
            "few",
            b"email,name\nann@a.test\n".to_vec(),
            "rows.csv line 2: the row has 1 fields, the header line 2",
        ),
        (
            "many",
            field("x,y"),
            "rows.csv line 2: the row has 3 fields, the header line 2",
        ),
        (
            "no-address",
            b"email,name\n,x\n".to_vec(),
            "rows.csv line 2: column \"email\": the address is empty",
        ),
        (
            "injected",
            b"email,name\n\"a@b.test\nBcc: x@y.test\",x\n".to_vec(),
            "rows.csv line 2: column \"email\": ",
        ),
        (
            "smtp",
            b"email,name\n\"a@b.test>\r\nRCPT TO:<x@y.test\",x\n".to_vec(),
            "rows.csv line 2: column \"email\": ",
        ),
        (
            "open-quote",
            field("\"x"),
            "rows.csv line 2: the quote that is opened here is never closed",
        ),
        (
            "bare-cr",
            field("a\rb"),
            "rows.csv line 2: line 2 has a CR that no LF follows",
        ),
        (
            "no-rows",
            b"email,name\n".to_vec(),
            "rows.csv: it has no recipients",
        ),
        ("nothing", Vec::new(), "rows.csv: it has no recipients"),
        (
            "twice",
            b"email,email\na@b.test,x\n".to_vec(),
            "rows.csv line 1: the column \"email\" is there twice",
        ),
        (
            "no-column",
            b"mail,name\na@b.test,x\n".to_vec(),
            "rows.csv line 1: no column \"email\"",
        ),
    ]
}

/// A header that says `size` in binary, as GNU tar does above 8 GiB.
fn declared(name: &str, size: u64) -> Vec<u8> {
    let mut header = Vec::new();
    hikyaku::job::archive::write_header(&mut header, name, size);
    header
}

/// Archives that are none, or not those of a job.
fn bad_archives() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let document = document("a", "");
    let toml = document.as_bytes();
    let part = |name: &str, content: &[u8]| {
        let mut out = Vec::new();
        entry(&mut out, name, content);
        out
    };
    let job = || part("job.toml", toml);
    let text = || part("body.txt", TEXT.as_bytes());
    let end = vec![0; 1024];
    let whole = with_rows(&document, GOOD);
    let of_kind = |kind: &[u8], target: &[u8]| {
        let header = patched(declared("body.txt", 0), &[(156, kind), (157, target)]);
        [
            job(),
            header,
            part("rows.csv", GOOD.as_bytes()),
            end.clone(),
        ]
        .concat()
    };
    let named = |name: &str| [job(), part(name, b"x"), end.clone()].concat();
    vec![
        (
            "cut-in-header",
            whole[..100].to_vec(),
            "archive: at byte 100: it was cut off",
        ),
        (
            "cut-in-rows",
            whole[..whole.len() - 1024 - 500].to_vec(),
            "it was cut off",
        ),
        (
            "cut-at-end",
            whole[..whole.len() - 1024].to_vec(),
            "it was cut off",
        ),
        (
            "more",
            [whole.clone(), b"x".to_vec()].concat(),
            "something follows behind its end",
        ),
        ("empty", Vec::new(), "archive: it is empty"),
        ("zeros", vec![0; 4096], "job.toml"),
        (
            "gzip",
            [b"\x1f\x8b\x08".to_vec(), vec![7; 2000]].concat(),
            "archive: at byte 0: no tar header",
        ),
        (
            "zip",
            b"PK\x03\x04".repeat(300),
            "archive: at byte 0: no tar header",
        ),
        ("up", named("../body.txt"), "has a slash"),
        ("root", named("/etc/passwd"), "has a slash"),
        ("dots", named(".."), "no plain name"),
        ("backslash", named("..\\body.txt"), "has a slash, backslash"),
        ("line-end", named("a\nb"), "control character"),
        (
            "symbolic",
            of_kind(b"2", b"/etc/passwd"),
            "a symbolic link \"body.txt\"",
        ),
        (
            "hard",
            of_kind(b"1", b"job.toml"),
            "a hard link \"body.txt\"",
        ),
        ("device", of_kind(b"3", b""), "a device \"body.txt\""),
        ("fifo", of_kind(b"6", b""), "a FIFO \"body.txt\""),
        ("directory", of_kind(b"5", b""), "a directory \"body.txt\""),
        ("sparse", of_kind(b"S", b""), "a sparse file \"body.txt\""),
        (
            "two-jobs",
            [
                job(),
                text(),
                job(),
                part("rows.csv", GOOD.as_bytes()),
                end.clone(),
            ]
            .concat(),
            "job.toml: the archive holds it twice",
        ),
        (
            "second-first",
            [text(), job(), end.clone()].concat(),
            "must be job.toml",
        ),
        (
            "unnamed",
            [job(), text(), part("more.txt", b"x"), end.clone()].concat(),
            "more.txt: job.toml does not name this file",
        ),
        (
            "behind",
            [
                whole[..whole.len() - 1024].to_vec(),
                part("z", b"x"),
                end.clone(),
            ]
            .concat(),
            "z: it follows behind the recipients",
        ),
        // Sizes that the file does not have: nothing of such a size is made room for.
        (
            "huge-job",
            declared("job.toml", 1 << 40),
            "job.toml: larger than 256 KiB",
        ),
        (
            "huge-part",
            [job(), declared("body.txt", 1 << 50)].concat(),
            "larger than 32 MiB",
        ),
        (
            "huge-rows",
            [
                job(),
                text(),
                declared("rows.csv", i64::MAX as u64),
                GOOD.into(),
            ]
            .concat(),
            "it was cut off",
        ),
        (
            "no-number",
            [
                patched(declared("job.toml", 0), &[(124, &[0xff; 12])]),
                end.clone(),
            ]
            .concat(),
            "is no number",
        ),
        (
            "toml",
            archive(&[("job.toml", "name = [[[["), ("rows.csv", GOOD)]),
            "job.toml line 1: ",
        ),
        (
            "toml16",
            archive(&[
                ("job.toml", &utf16(&document)[..]),
                ("rows.csv", GOOD.as_bytes()),
            ]),
            "job.toml line 1: not valid UTF-8",
        ),
        (
            "toml-key",
            with_rows(&document.replace("subject", "sujet"), GOOD),
            "job.toml",
        ),
        (
            "path-in-toml",
            with_rows(&document.replace("\"body.txt\"", "\"../body.txt\""), GOOD),
            "job.toml line ",
        ),
    ]
}

#[test]
fn what_cannot_be_a_job_is_refused_with_its_place_and_nobody_else_waits() {
    let bed = Bed::new();
    let (sink, arrived) = keeping_sink(&bed, "");
    let mut wanted = Vec::new();
    for (name, rows, said) in bad_rows() {
        wanted.push((name, with_rows(&document(name, ""), rows), said));
    }
    wanted.extend(bad_archives());
    for (name, bytes, _) in &wanted {
        bed.drop_file(&format!("{name}.job"), bytes);
    }
    bed.drop_file("good.job", with_rows(&document("good", ""), GOOD));
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(3), 1),
        "{ended:?}"
    );
    for (name, bytes, said) in &wanted {
        let file = format!("{name}.job");
        let receipt = bed.receipt(&file);
        assert_eq!(receipt["state"], "refused", "{name}: {receipt}");
        assert_eq!(receipt["reason"]["code"], "job", "{name}: {receipt}");
        let detail = receipt["reason"]["detail"].as_str().expect("a reason");
        assert!(detail.contains(said), "{name}: {detail:?}, not {said:?}");
        assert!(
            !detail.contains(char::is_control) && detail.len() < 1000,
            "{name}: {detail:?}"
        );
        // As it came, for whoever has to mend it.
        let kept = bed.names("quarantine");
        let is_it = |kept: &&String| kept.splitn(3, '-').nth(2) == Some(&file);
        let kept = kept.iter().find(is_it);
        let kept = kept.unwrap_or_else(|| panic!("{name} is not in quarantine"));
        let there = std::fs::read(bed.path("drop/quarantine").join(kept)).expect("read");
        assert!(there == *bytes, "{name}");
    }
    assert_eq!(
        arrived.lock().expect("arrived").keys().collect::<Vec<_>>(),
        ["ann@a.test"]
    );
    assert_eq!(bed.names("new").len() + bed.names("claimed").len(), 0);
}

/// The fields of a header, unfolded.
fn fields(message: &str) -> Vec<(String, String)> {
    let (header, _) = message.split_once("\r\n\r\n").expect("a header");
    let header = header.replace("\r\n ", " ").replace("\r\n\t", " ");
    let fields = header.split("\r\n").map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    });
    fields.collect()
}

#[test]
fn what_a_row_says_stays_data_or_its_row_is_held() {
    let bed = Bed::new();
    let (sink, arrived) = keeping_sink(&bed, "");
    // A body takes what a header field does not: 8 KiB.
    let (long, too_long) = ("y".repeat(5_000), "y".repeat(60_000));
    // Value, and whether a message can be made: control characters have no place in a header field.
    let values: Vec<(&str, bool)> = vec![
        ("Ann", true),
        ("Ann\nBcc: x@y.test", false),
        ("Ann\r\n\r\n.\r\nMAIL FROM:<x@y.test>", false),
        ("Ann\u{7f}\u{1b}[2J", false),
        ("{{ 7*7 }}{% include '/etc/passwd' %}{# #}", true),
        ("=cmd|'/c calc'!A1", true),
        ("@SUM(1+1)*cmd", true),
        ("=?utf-8?q?Bcc=3A_x?=", true),
        ("<script>alert(1)</script>", true),
        ("\u{202e}\u{feff}\u{200b}x", true),
        (".", true),
        ("", true),
        (&long, true),
        (&too_long, false),
    ];
    let mut rows = "\u{feff}email,name\r\n".to_owned();
    for (number, (value, _)) in values.iter().enumerate() {
        let _ = write!(
            rows,
            "r{number}@a.test,\"{}\"\r\n",
            value.replace('"', "\"\"")
        );
    }
    let headers = "to_name = \"{{ name }}\"\nfeedback_id = \"{{ email }}:x\"\nheaders.X-Name = \"{{ name }}\"";
    bed.drop_file("data.job", with_rows(&document("data", headers), &rows));
    let ended = bed.once(&all_to(&sink));
    let good = values.iter().filter(|(_, is_good)| *is_good).count() as u64;
    let bad = values.len() as u64 - good;
    assert_eq!(
        (ended.count("delivered"), ended.count("held")),
        (good, bad),
        "{ended:?}\n{:?}",
        bed.log_of("held")
    );
    let arrived = arrived.lock().expect("arrived");
    let names = |message: &str| -> Vec<String> {
        fields(message).into_iter().map(|(name, _)| name).collect()
    };
    let usual = String::from_utf8(arrived["r0@a.test"][0].clone()).expect("7 bits");
    for (number, (value, is_good)) in values.iter().enumerate() {
        let recipient = format!("r{number}@a.test");
        assert_eq!(arrived.contains_key(&recipient), *is_good, "{value:?}");
        if !is_good {
            let held = bed.log_of("held");
            let held = held.iter().find(|line| line["recipient"] == *recipient);
            let reply = held.expect("a line")["reply"].as_str().expect("a reason");
            let wanted = format!("no message can be made from row {number} of job data: ");
            assert!(reply.starts_with(&wanted), "{reply}");
            assert!(
                reply[wanted.len()..].starts_with("job.toml line 5: to_name: "),
                "{reply}"
            );
            assert!(!reply.contains(char::is_control), "{reply:?}");
            continue;
        }
        let message = String::from_utf8(arrived[&recipient][0].clone()).expect("7 bits");
        assert!(
            message.is_ascii() && !message.contains("y.test"),
            "{message}"
        );
        assert!(message.lines().all(|line| line.len() <= 998), "{value:.30}");
        assert_eq!(
            names(&message),
            names(&usual),
            "{value:.30}: fields are the job's"
        );
        let parsed = mail_parser::MessageParser::default()
            .parse(&message)
            .expect("a message");
        let text = parsed.body_text(0).unwrap_or_default();
        let said = format!("Hello {value}\n");
        assert!(
            text.replace("\r\n", "\n").starts_with(&said),
            "{value:.30}: {text:.60}"
        );
        if value.len() < 100 {
            assert_eq!(
                parsed.subject().unwrap_or_default().trim_end(),
                format!("For {value}").trim_end()
            );
        }
    }
    let receipt = bed.receipt("data.job");
    assert_eq!(
        (&receipt["delivered"], &receipt["held"]),
        (&good.into(), &bad.into()),
        "{receipt}"
    );
}

/// `hikyaku-bench job --rows 1000 --duplicates 1000000` does the same with a million.
#[test]
fn repeated_addresses_get_one_message_and_bad_rows_are_counted() {
    const REPEATS: u64 = 20_000;
    let bed = Bed::new();
    let (sink, arrived) = keeping_sink(&bed, "");
    let mut rows = "email,name\nsame@a.test,first\n".to_owned();
    for number in 0..REPEATS {
        let domain = if number % 2 == 0 { "A.TEST" } else { "a.test" };
        let _ = writeln!(rows, "same@{domain},{number}");
    }
    rows += "Same@a.test,another\nno address,x\n,x\nx@b.test\nx@b.test,a,b\nx@b.test,a\0b\nx@b.test,last\n";
    let document = document("many", "").replace("file =", "on_bad_row = \"skip\"\nfile =");
    bed.drop_file("many.job", with_rows(&document, rows));
    let ended = bed.once(&all_to(&sink));
    assert_eq!(
        (ended.code, ended.count("delivered")),
        (Some(0), 3),
        "{ended:?}"
    );
    let receipt = bed.receipt("many.job");
    for (name, wanted) in [
        ("rows", REPEATS + 8),
        ("duplicates", REPEATS),
        ("skipped", 5),
        ("recipients", 3),
        ("delivered", 3),
    ] {
        assert_eq!(receipt[name], wanted, "{name} in {receipt}");
    }
    let arrived = arrived.lock().expect("arrived");
    for (recipient, name) in [
        ("same@a.test", "first"),
        ("Same@a.test", "another"),
        ("x@b.test", "last"),
    ] {
        let [message] = &arrived[recipient][..] else {
            panic!("{recipient}: {} copies", arrived[recipient].len())
        };
        let message = str::from_utf8(message).expect("7 bits");
        assert!(message.contains(&format!("Hello {name}\r\n")), "{message}");
    }
}
