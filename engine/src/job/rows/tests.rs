//! Rows of both formats: what is read, what is refused, and that borders do not matter.

use super::*;
use crate::job::chunk::{ChunkView, ChunkWriter};
use proptest::prelude::*;

/// Columns, then each row: its line and values, or what is wrong with it. An error of the file is last.
fn read(file: &str, bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut reader = RowReader::new(file, "email").expect("known format");
    let mut seen = Vec::new();
    let mut expected = 0;
    let mut on = |number: u64, row: Result<Row, JobError>| {
        assert_eq!(number, expected);
        expected += 1;
        seen.push(match row {
            Ok(row) => {
                assert_eq!(row.number, number);
                let (line, address) = (row.line, row.recipient.as_str().to_owned());
                let mut chunk = ChunkWriter::default();
                chunk.push(row);
                let chunk = chunk.finish().expect("a row");
                let view = ChunkView::parse(&chunk.content).expect("readable");
                let row = view.row(0, &address).expect("a row");
                format!(
                    "{line} {address}: {}",
                    row.values().collect::<Vec<_>>().join("|")
                )
            }
            Err(error) => format!("{} {}", error.line, error.what),
        });
        Ok(())
    };
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(bytes.len())).collect();
    cuts.sort_unstable();
    let mut start = 0;
    let read = || {
        for end in cuts.into_iter().chain([bytes.len()]) {
            reader.feed(&bytes[start..end], &mut on)?;
            start = end;
        }
        reader.finish(&mut on)
    };
    let ended = read();
    let columns = reader.columns().join("|");
    let mut all = vec![columns];
    all.append(&mut seen);
    all.extend(ended.err().map(|error| error.to_string()));
    all
}

#[track_caller]
fn check(file: &str, text: impl AsRef<[u8]>, wanted: &[&str]) {
    let text = text.as_ref();
    let all = read(file, text, &[]);
    assert_eq!(all.len(), wanted.len(), "{all:#?}");
    for (got, wanted) in all.iter().zip(wanted) {
        let same = match wanted.strip_suffix('…') {
            Some(beginning) => got.starts_with(beginning),
            None => got == wanted,
        };
        assert!(same, "{}\n{got}\n{wanted}", String::from_utf8_lossy(text));
    }
    let every: Vec<usize> = (0..text.len()).collect();
    assert_eq!(read(file, text, &every), all, "byte by byte");
}

#[test]
fn csv() {
    check(
        "r.csv",
        "email,name\na@b.test,Ann\n",
        &["email|name", "2 a@b.test: a@b.test|Ann"],
    );
    check(
        "r.csv",
        "\u{feff}name,email\r\n\r\n\"山田, \"\"花子\"\"\r\nさん\",a@B.test\r\n,b@b.test",
        &[
            "name|email",
            "3 a@b.test: 山田, \"花子\"\r\nさん|a@B.test",
            "5 b@b.test: |b@b.test",
        ],
    );
    check(
        "r.csv",
        "email\na@b.test\n\n\nb@b.test",
        &["email", "2 a@b.test: a@b.test", "5 b@b.test: b@b.test"],
    );
    // Data that other programs would execute.
    check(
        "r.csv",
        "email,a,b\n=1+1@b.test,=cmd|'/c calc'!A1,{{ 7*7 }}{% for %}\n",
        &[
            "email|a|b",
            "2 =1+1@b.test: =1+1@b.test|=cmd|'/c calc'!A1|{{ 7*7 }}{% for %}",
        ],
    );
}

#[test]
fn csv_rows_that_cannot_be_used() {
    for (row, said) in [
        (
            "a@b.test",
            "2 the row has 1 fields, the header line 2: write …",
        ),
        (
            "a@b.test,x,",
            "2 the row has 3 fields, the header line 2: write …",
        ),
        (
            "a@b.test,a\"b",
            "2 line 2 has a quote within a value that has none around it…",
        ),
        (
            "a@b.test,\"a\"b",
            "2 line 2 has text behind a closing quote…",
        ),
        ("a@b.test,a\rb", "2 line 2 has a CR that no LF follows…"),
        ("a@b.test,\"a\"\rb", "2 line 2 has a CR that no LF follows…"),
        (",x", "2 column \"email\": the address is empty"),
        (
            "a@@b.test,x",
            "2 column \"email\": \"a@@b.test\": the address has more than one @",
        ),
        (
            "\"a@b.test\r\nBcc: x@y.test\",x",
            "2 column \"email\": \"a@b.test\\r\\nBcc: x@y.test\": the address has the control…",
        ),
        (
            "ä@b.test,x",
            "2 column \"email\": \"ä@b.test\": the local part is not ASCII…",
        ),
        ("a@b.test,\0", "2 column \"name\" has a NUL…"),
    ] {
        let text = format!("email,name\n{row}\nz@b.test,ok\n");
        let ok = format!("{} z@b.test: z@b.test|ok", 3 + row.matches('\n').count());
        check("r.csv", text, &["email|name", said, &ok]);
    }
    check(
        "r.csv",
        b"email,name\na@b.test,\x83\x65\nb@b.test,ok\n",
        &[
            "email|name",
            "2 column \"name\": not valid UTF-8: save…",
            "3 b@b.test: b@b.test|ok",
        ],
    );
    // Two halves of one character.
    check(
        "r.csv",
        b"email,a,b\na@b.test,\xe3,\x81\x82\n",
        &["email|a|b", "2 not valid UTF-8…"],
    );
}

#[test]
fn csv_files_that_cannot_be_used() {
    for (text, wanted) in [
        ("", &["", "r.csv: it has no recipients"][..]),
        ("\n\n", &["", "r.csv: it has no recipients"]),
        (
            "email,name\n",
            &["email|name", "r.csv: it has no recipients"],
        ),
        (
            "email,\na@b.test,x\n",
            &["", "r.csv line 1: column 2 has no name: give it one"],
        ),
        (
            "email,email\na@b.test,x\n",
            &["", "r.csv line 1: the column \"email\" is there twice"],
        ),
        (
            "mail,name\na@b.test,x\n",
            &[
                "",
                "r.csv line 1: no column \"email\" for the address (there are \"mail\", \"name\"): name…",
            ],
        ),
        (
            "email;name\na@b.test;x\n",
            &[
                "",
                "r.csv line 1: no column \"email\" for the address (there are \"email;name\"): name…",
            ],
        ),
        (
            "email,a\"b\n",
            &["", "r.csv line 1: the header line: line 1 has a quote…"],
        ),
        (
            "email,name\na@b.test,ok\nb@b.test,\"open\nc@b.test,x\n",
            &[
                "email|name",
                "2 a@b.test: a@b.test|ok",
                "r.csv line 3: the quote that is opened here is never closed…",
            ],
        ),
    ] {
        check("r.csv", text, wanted);
    }
    assert!(RowReader::new("r.xls", "email").is_err());
    assert!(RowReader::new("csv", "email").is_err());
}

#[test]
fn limits() {
    let long = "x".repeat(JOB_FIELD_MAX);
    for (file, row, next) in [
        ("r.csv", format!("email,a\na@b.test,{long}"), "b@b.test,y"),
        (
            "r.jsonl",
            format!("{{\"email\":\"a@b.test\",\"a\":\"{long}\"}}"),
            "{\"email\":\"b@b.test\",\"a\":\"y\"}",
        ),
    ] {
        let all = read(file, format!("{row}\n{next}\n").as_bytes(), &[]);
        assert_eq!(all.len(), 3);
        assert!(all[1].ends_with('x'), "{file}: as long as it may be");
        let too_long = row.replace("xxx", "xxxx");
        // The first object must be readable: it says what columns there are.
        let too_long = if file == "r.csv" {
            too_long
        } else {
            format!("{next}\n{too_long}")
        };
        let all = read(file, format!("{too_long}\n{next}\n").as_bytes(), &[]);
        assert_eq!(all.len(), if file == "r.csv" { 3 } else { 4 }, "{all:?}");
        let said = &all[all.len() - 2];
        assert!(said.ends_with("field 2 is longer than 64 KiB"), "{said}");
    }
    let mega = "x".repeat(1 << 20);
    for row in [
        format!("{mega},y"),
        format!("\"{mega}\",y"),
        "x,".repeat(1 << 19),
    ] {
        let text = format!("email,a\n{row}\nb@b.test,y\n");
        let all = read("r.csv", text.as_bytes(), &[]);
        assert_eq!(all.len(), 3);
        assert!(
            all[1].starts_with("2 ") && all[1].contains(" than "),
            "{}",
            all[1]
        );
        assert_eq!(
            all,
            read(
                "r.csv",
                text.as_bytes(),
                &[9, 10_000, 100_000, 262_152, 300_000, 900_000]
            )
        );
    }
    let text =
        format!("{{\"email\":\"a@b.test\"}}\n{{\"email\":\"{mega}\"}}\n{{\"email\":\"b@b.test\"}}");
    let all = read("r.jsonl", text.as_bytes(), &[]);
    assert_eq!(
        &all[2..],
        ["2 the row is longer than 256 KiB", "3 b@b.test: b@b.test"]
    );
    assert_eq!(
        all,
        read("r.jsonl", text.as_bytes(), &[100, 100_000, 300_000])
    );
    // Which limit is met first does not depend on the borders either.
    let quarter = "x".repeat(60 << 10);
    let text = format!("email,a,b,c,d\n{quarter},{quarter},{quarter},{quarter},{mega}\n");
    let all = read("r.csv", text.as_bytes(), &[]);
    let cuts: Vec<usize> = (0..text.len()).step_by(1000).collect();
    assert_eq!(all, read("r.csv", text.as_bytes(), &cuts));
}

#[test]
fn json_lines() {
    check(
        "r.jsonl",
        "\u{feff}{\"email\":\"a@B.test\",\"n\":1.10,\"big\":123456789012345678901234567890,\"x\":true,\"y\":null}\r\n\n{\"n\":\"\\u5c71\\n\", \"email\":\"b@b.test\", \"y\":\"\", \"x\":false, \"big\":-1e5}",
        &[
            "email|n|big|x|y",
            "1 a@b.test: a@B.test|1.10|123456789012345678901234567890|true|",
            "3 b@b.test: b@b.test|山\n|-1e5|false|",
        ],
    );
    for (row, said) in [
        (
            "{\"email\":\"b@b.test\"}",
            "2 the field \"n\" of the first row is missing: write null…",
        ),
        (
            "{\"email\":\"b@b.test\",\"n\":1,\"o\":2}",
            "2 the field \"o\" is not in the first row…",
        ),
        (
            "{\"email\":\"b@b.test\",\"n\":{}}",
            "2 the field \"n\" holds an object or an array…",
        ),
        (
            "{\"email\":\"b@b.test\",\"n\":[1]}",
            "2 the field \"n\" holds an object or an array…",
        ),
        (
            "{\"email\":\"b@b.test\",\"n\":1,\"n\":2}",
            "2 the field \"n\" is there twice",
        ),
        (
            "{\"n\":1,\"email\":\"b@b.test\",\"n\":2}",
            "2 the field \"n\" is there twice",
        ),
        (
            "{\"email\":\"b@b.test\",\"n\":\"\\ud800\"}",
            "2 the field \"n\" holds an escape…",
        ),
        (
            "{\"email\":\"b@b.test\",\"n\":\"\\u0000\"}",
            "2 column \"n\" has a NUL…",
        ),
        ("[1]", "2 invalid type: sequence, expected an object…"),
        (
            "\"text\"",
            "2 invalid type: string \"text\", expected an object…",
        ),
        (
            "{\"email\":\"b@b.test\"",
            "2 column 19: not JSON: EOF while parsing an object: write one…",
        ),
        (
            "{\"email\":\"b@b.test\",\"n\":1} {}",
            "2 column 28: not JSON: trailing characters: write one…",
        ),
        (
            "{\"email\":5,\"n\":1}",
            "2 column \"email\": \"5\": the address has no @ and domain",
        ),
    ] {
        let text = format!(
            "{{\"email\":\"a@b.test\",\"n\":0}}\n{row}\n{{\"email\":\"z@b.test\",\"n\":9}}\n"
        );
        check(
            "r.jsonl",
            text,
            &[
                "email|n",
                "1 a@b.test: a@b.test|0",
                said,
                "3 z@b.test: z@b.test|9",
            ],
        );
    }
    for (text, said) in [
        ("", "r.jsonl: it has no recipients"),
        ("{}\n", "r.jsonl line 1: no column \"email\"…"),
        (
            "{\"mail\":1}\n",
            "r.jsonl line 1: no column \"email\" for the address (there are \"mail\")…",
        ),
        ("{\"email\":\n", "r.jsonl line 1: column 9: not JSON…"),
    ] {
        check("r.jsonl", text, &["", said]);
    }
    check(
        "r.jsonl",
        b"{\"email\":\"a@b.test\"}\n{\"email\":\"\xff\"}\n",
        &["email", "1 a@b.test: a@b.test", "2 not valid UTF-8…"],
    );
}

/// Bytes that mean something to a parser.
fn text() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 16] = [
        b",",
        b"\"",
        b"\n",
        b"\r\n",
        b"\r",
        b"a@b.test",
        b"\xe3\x81\x82",
        b"\xff",
        b"x",
        b"{",
        b"}",
        b":",
        b"\"email\":\"a@b.test\"",
        b"null",
        b"\\u00",
        b"\xef\xbb",
    ];
    const HEADS: [&[u8]; 5] = [
        b"",
        b"email\n",
        b"email,n\n",
        b"\xef\xbb\xbfemail,n\r\n",
        b"{\"email\":\"a@b.test\"}\n",
    ];
    let piece = proptest::sample::select(&PIECES[..]);
    let head = proptest::sample::select(&HEADS[..]);
    (head, proptest::collection::vec(piece, 0..30))
        .prop_map(|(head, pieces)| [head, &pieces.concat()].concat())
}

proptest! {
    #[test]
    fn borders_do_not_matter(bytes in text(), cuts in proptest::collection::vec(0_usize..200, 0..10), csv in any::<bool>()) {
        let file = if csv { "r.csv" } else { "r.jsonl" };
        prop_assert_eq!(read(file, &bytes, &cuts), read(file, &bytes, &[]));
    }

    #[test]
    fn what_is_written_by_the_rules_is_read_back(
        rows in proptest::collection::vec(proptest::collection::vec("[^\0]{0,12}", 3), 1..10),
        cuts in proptest::collection::vec(0_usize..500, 0..10),
    ) {
        let quoted = |value: &String| format!("\"{}\"", value.replace('"', "\"\""));
        let mut csv = "email,a,b,c\r\n".to_owned();
        let mut json = String::new();
        let mut wanted = Vec::new();
        for row in &rows {
            csv += &format!("r@b.test,{}\r\n", row.iter().map(quoted).collect::<Vec<_>>().join(","));
            json += &format!("{}\n", serde_json::json!({"email": "r@b.test", "a": row[0], "b": row[1], "c": row[2]}));
            wanted.push(row.join("|"));
        }
        let all = read("r.csv", csv.as_bytes(), &cuts);
        prop_assert_eq!(all.len(), rows.len() + 1);
        for (got, wanted) in all[1..].iter().zip(&wanted) {
            prop_assert_eq!(got.split_once(": ").expect("row").1, format!("r@b.test|{wanted}"));
        }
        // serde_json writes the fields in alphabetical order.
        let all = read("r.jsonl", json.as_bytes(), &cuts);
        prop_assert_eq!(&*all[0], "a|b|c|email");
        for (got, wanted) in all[1..].iter().zip(&wanted) {
            prop_assert_eq!(got.split_once(": ").expect("row").1, format!("{wanted}|r@b.test"));
        }
    }

    #[test]
    fn any_fields_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut rest = &bytes[..];
        while read_field(&mut rest, "a@b.test").is_some() {}
    }

    #[test]
    fn lengths_are_read_back(value in "x{0,300}", long in 0_usize..70_000) {
        for value in [value, "y".repeat(long)] {
            let mut out = Vec::new();
            encode_field(&mut out, &value, "a@b.test");
            out.push(7);
            let mut rest = &out[..];
            prop_assert_eq!(read_field(&mut rest, "a@b.test"), Some(&*value));
            prop_assert_eq!(rest, [7]);
        }
    }
}
