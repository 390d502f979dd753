//! Hostile jobs, dropped into a running engine as anybody may who may write there: each is refused as documented, and the
//! jobs beside it go on. `jobs_data.rs` has what passes.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod jobfile;
mod support;

use jobfile::{TEXT, archive, document, entry, patched, with_rows};
use support::{Bed, all_to};

const GOOD: &str = "email,name\nann@a.test,Ann\n";

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
    let (sink, arrived) = bed.keeping_sink("");
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
