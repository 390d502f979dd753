//! Placeholders and what becomes of them.

use proptest::prelude::*;

use super::*;
use crate::job::rows::encode_field;

const TIME: u64 = 1_795_312_800_000;

fn common() -> Common {
    Common {
        reverse_path: "news@sender.test".into(),
        verp: false,
        job: None,
        priority: 50,
    }
}

fn merge(columns: &[&str], parts: &[&str]) -> Result<Merge, JobError> {
    let columns = columns.iter().map(|name| (*name).into()).collect();
    let parts = parts.iter().map(|part| Arc::from(part.as_bytes()));
    let id = (SubmissionId(7), TIME);
    let bundle = common().bundle(id, columns, parts.collect());
    let mut bytes = Vec::new();
    bundle.encode(&mut bytes);
    let bundle = Bundle::decode(&bytes).expect("decodes");
    assert!(bundle.is_merge());
    Merge::compile(&bundle)
}

fn render(merge: &Merge, values: &[&str]) -> Result<String, String> {
    let mut fields = Vec::new();
    for value in values {
        encode_field(&mut fields, value, "ann@a.test");
    }
    let row = RowView {
        number: 3,
        recipient: "ann@a.test",
        fields: &fields,
    };
    let mut out = b"before".to_vec();
    merge.render(row, &mut out)?;
    Ok(String::from_utf8(out).expect("UTF-8")[6..].to_owned())
}

#[test]
fn placeholders_become_what_the_table_says() {
    let header = "From: \"Shop\" [*from]\r\nTo: \"[Name]\" [*to]\r\nCc: <[*to]>\r\nReply-To: [*From]\r\n\
        Date: [*DATE]\r\nSubject: [name], [[]new]\r\n\r\n";
    let merge = merge(
        &["*parts", "name"],
        &[header, "To: Ann [*to] {{ name }} [Name][Name] ]\r\n"],
    )
    .expect("compiles");
    let said = render(&merge, &["\u{1}\u{2}", "{{ 7 }} [City]"]).expect("a message");
    assert_eq!(
        said,
        "From: \"Shop\" <news@sender.test>\r\nTo: \"{{ 7 }} [City]\" <ann@a.test>\r\nCc: <ann@a.test>\r\n\
         Reply-To: news@sender.test\r\nDate: Sun, 22 Nov 2026 02:00:00 +0000\r\n\
         Subject: {{ 7 }} [City], [new]\r\n\r\n\
         To: Ann ann@a.test {{ name }} {{ 7 }} [City]{{ 7 }} [City] ]\r\n"
    );
    assert_eq!(merge.columns_of(2).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(merge.columns_of(3).count(), 0);
}

#[test]
fn each_recipient_gets_his_parts_in_his_order() {
    let merge = merge(&["*from", "*parts"], &["A: 1\r\n", "[*from]\r\n", "\r\n"]).expect("good");
    let said = |from, parts| render(&merge, &[from, parts]);
    assert_eq!(
        said("", "\u{1}\u{3}\u{2}").as_deref(),
        Ok("A: 1\r\n\r\nnews@sender.test\r\n")
    );
    assert_eq!(
        said("b@c.test", "\u{1}\u{3}\u{2}").as_deref(),
        Ok("A: 1\r\n\r\nb@c.test\r\n")
    );
    for damaged in ["\u{4}", "\u{0}", "\u{10ffff}"] {
        assert!(said("", damaged).is_err());
    }
    assert!(render(&merge, &[""]).is_err());
    // What a field is, and where the header ends, no value decides.
    let begins = said("", "\u{1}\u{2}\u{3}").expect_err("refused");
    assert!(begins.contains("begins a line of the header"), "{begins}");
}

#[test]
fn other_brackets_are_errors_with_their_line() {
    for (part, line, what) in [
        ("a\r\n[", 2, "\"[\""),
        ("a [1] b", 1, "\"[1\""),
        ("[a b]", 1, "\"[a b\""),
        ("[]", 1, "\"[\""),
        ("[a\r\n]", 1, "\"[a\""),
        ("\r\n\r\n<!--[if mso]>", 3, "write [[]"),
        ("[_a]", 1, "\"[_a\""),
        ("[*all]", 1, "\"[*all\""),
        ("[*parts]", 1, "not defined"),
        ("[[x]", 1, "\"[[x\""),
        ("[\u{e4}]", 1, "\"[\\xc3\\xa4\""),
    ] {
        let error = scan(part.as_bytes(), &mut |_, _| {}).expect_err(part);
        assert_eq!(error.line, line, "{part}");
        assert!(error.what.contains(what), "{part}: {}", error.what);
    }
    let long = format!("[a{}]", "b".repeat(NAME_MAX));
    assert!(scan(long.as_bytes(), &mut |_, _| {}).is_err());
    let longest = long.replacen('b', "", 1);
    assert!(scan(longest.as_bytes(), &mut |_, _| {}).is_ok());
}

#[test]
fn what_is_shared_is_read_back() {
    let common = Common {
        reverse_path: "\"a\\\\b\"@sender.test".into(),
        verp: true,
        job: Some("a\"\\{}".into()),
        priority: 7,
    };
    let bundle = common.bundle((SubmissionId(7), TIME), vec![PARTS.into()], Vec::new());
    assert_eq!(Common::parse(&bundle), Ok(common));
    let job = bundle.job().expect("a job");
    assert_eq!((&*job.name, job.priority), ("a\"\\{}", 7));
    let terms = bundle.terms().expect("readable").expect("terms");
    assert_eq!((terms.priority, terms.accepted_ms), (7, TIME));
    let none = Common {
        job: None,
        ..self::common()
    };
    let bundle = none.bundle((SubmissionId(7), TIME), vec![PARTS.into()], Vec::new());
    assert_eq!(bundle.terms(), Ok(None));
}

proptest! {
    #[test]
    fn any_bytes_are_taken_apart_without_loss(part in "[\\[\\]*a-c\r\n ]{0,40}") {
        let mut again = Vec::new();
        let scanned = scan(part.as_bytes(), &mut |token, _| match token {
            Token::Text(b"[") => again.extend_from_slice(b"[[]"),
            Token::Text(text) => again.extend_from_slice(text),
            Token::Name(name) => again.extend_from_slice(format!("[{name}]").as_bytes()),
            Token::From | Token::To | Token::Date => {}
        });
        if scanned.is_ok() {
            prop_assert_eq!(again, part.as_bytes());
        }
    }
}
