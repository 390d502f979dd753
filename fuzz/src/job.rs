//! Jobs: the archive, the rows, and the message that a template makes of a row.

use hikyaku::job::archive::{self, Archive, Event};
use hikyaku::job::read::{JobReader, Pass, Survey};
use hikyaku::job::rows::{Row, RowReader};
use hikyaku::job::template::Template;
use hikyaku::job::token::Secret;
use hikyaku::job::{Bundle, JobError};
use hikyaku::mail::address::Address;
use hikyaku::mail::id::SubmissionId;

use crate::pieces::{octets, pieces};

const BLOCK: usize = 512;
/// Longest line of a message without its CRLF (RFC 5322 §2.1.1).
const LINE_MAX: usize = 998;

/// The archive of a job: as it is, and with the checksums of its headers made right, which a fuzzer does not find.
pub fn archive(data: &[u8]) {
    one_archive(data);
    one_archive(&repaired(data));
}

fn one_archive(data: &[u8]) {
    let whole = files_of(&[data]);
    assert_eq!(files_of(&pieces(data)), whole, "cut");
    if data.len() <= 8192 {
        assert_eq!(files_of(&octets(data)), whole, "octet by octet");
    }
    match &whole {
        Ok(files) => {
            for (number, (name, content)) in files.iter().enumerate() {
                assert_eq!(archive::check_name(name.as_bytes()), Ok(&**name));
                assert!(files[..number].iter().all(|(before, _)| before != name));
                assert!(content.len() <= data.len());
            }
            let mut again = Vec::new();
            for (name, content) in files {
                archive::write_header(&mut again, name, content.len() as u64);
                again.extend_from_slice(content);
                archive::write_padding(&mut again, content.len() as u64);
            }
            archive::write_end(&mut again);
            assert_eq!(files_of(&[&again]), whole, "our own archive");
        }
        Err(error) => check_error(error),
    }

    let (seen, again) = (survey(&[data]), survey(&pieces(data)));
    match (seen, again) {
        (Ok(one), Ok(other)) => {
            assert!(whole.is_ok());
            let at = |range: &std::ops::Range<u64>| {
                let at = |at: u64| usize::try_from(at).expect("within the archive");
                at(range.start)..at(range.end)
            };
            let bytes = &data[at(&one.rows_at)];
            let rows = second_pass(&one, &[bytes]);
            assert_eq!(rows, second_pass(&other, &pieces(bytes)), "rows, cut");
            let rows = rows.expect("the same file");
            assert_eq!(rows.len() as u64, one.recipients());
            assert!(rows.windows(2).all(|two| two[0].number < two[1].number));
            let mut stored = Vec::new();
            one.bundle.encode(&mut stored);
            assert_eq!(Bundle::decode(&stored).as_ref(), Some(&one.bundle));
        }
        (Err(one), Err(other)) => {
            assert_eq!(one, other, "cut");
            check_error(&one);
        }
        (one, other) => panic!("{one:?} and cut {other:?}"),
    }
}

type Files = Vec<(String, Vec<u8>)>;

fn files_of(chunks: &[&[u8]]) -> Result<Files, JobError> {
    let mut files: Vec<(String, u64, Vec<u8>)> = Vec::new();
    let mut is_open = false;
    let mut archive = Archive::default();
    for chunk in chunks {
        archive.feed(chunk, &mut |event, _| {
            match event {
                Event::File { name, size } => {
                    assert!(!is_open, "one after the other");
                    is_open = true;
                    files.push((name.to_owned(), size, Vec::new()));
                }
                Event::Bytes(bytes) => {
                    assert!(is_open && !bytes.is_empty());
                    files.last_mut().expect("a file").2.extend_from_slice(bytes);
                }
                Event::End => {
                    let (_, size, content) = files.last().expect("a file");
                    assert!(is_open && *size == content.len() as u64);
                    is_open = false;
                }
            }
            Ok(())
        })?;
    }
    archive.finish()?;
    assert!(!is_open);
    let files = files.into_iter();
    Ok(files.map(|(name, _, content)| (name, content)).collect())
}

fn survey(chunks: &[&[u8]]) -> Result<Box<Survey>, JobError> {
    let mut reader = JobReader::new(SubmissionId(7), 1_700_000_000_000);
    for chunk in chunks {
        reader.feed(chunk)?;
    }
    match reader.finish()? {
        Pass::Done(survey) => Ok(survey),
        Pass::Again(..) => panic!("so few duplicates fit into one pass"),
    }
}

fn second_pass(survey: &Survey, chunks: &[&[u8]]) -> Result<Vec<Row>, JobError> {
    let mut rows = survey.read_rows()?;
    let mut out = Vec::new();
    for chunk in chunks {
        rows.feed(chunk, &mut out)?;
    }
    rows.finish(&mut out)?;
    Ok(out)
}

/// `data` with every header's checksum right, as far as its sizes lead, and an end.
fn repaired(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let mut at = 0;
    while let Some(header) = out.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let digits = header[124..136]
            .iter()
            .filter(|byte| (b'0'..=b'7').contains(*byte));
        let size = digits.fold(0, |size, byte| {
            (size << 3 | usize::from(*byte - b'0')) & 0xff_ffff
        });
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    out.resize(
        out.len()
            .max(at)
            .min(data.len() + BLOCK)
            .next_multiple_of(BLOCK),
        0,
    );
    archive::write_end(&mut out);
    out
}

fn check_error(error: &JobError) {
    let said = error.to_string();
    assert!(!error.what.is_empty() && said.len() < 2000, "{said}");
    assert!(
        !said.contains(char::is_control),
        "for people, in one line: {said:?}"
    );
}

/// Recipients: the same rows and the same errors in CSV and in JSON Lines, wherever they are cut.
pub fn rows(data: &[u8]) {
    for file in ["rows.csv", "rows.jsonl"] {
        let whole = read_rows(file, &[data]);
        assert_eq!(read_rows(file, &pieces(data)), whole, "{file}, cut");
        if data.len() <= 4096 {
            assert_eq!(
                read_rows(file, &octets(data)),
                whole,
                "{file}, octet by octet"
            );
        }
        check_rows(&whole, data);
        if whole.ended.is_ok() {
            written_again(&whole);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Rows {
    columns: Vec<Box<str>>,
    rows: Vec<Result<Row, JobError>>,
    ended: Result<(), JobError>,
}

fn read_rows(file: &str, chunks: &[&[u8]]) -> Rows {
    let mut reader = RowReader::new(file, "email").expect("a known extension");
    let mut rows = Vec::new();
    let mut on = |number: u64, row: Result<Row, JobError>| {
        assert_eq!(number, rows.len() as u64, "counted from 0, none left out");
        rows.push(row);
        Ok(())
    };
    let mut ended = Ok(());
    for chunk in chunks {
        ended = reader.feed(chunk, &mut on);
        if ended.is_err() {
            break;
        }
    }
    if ended.is_ok() {
        ended = reader.finish(&mut on);
    }
    assert_eq!(reader.rows(), rows.len() as u64);
    Rows {
        columns: reader.columns().to_vec(),
        rows,
        ended,
    }
}

fn check_rows(read: &Rows, data: &[u8]) {
    let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count() as u64;
    let address = read.columns.iter().position(|name| &**name == "email");
    for (number, row) in read.rows.iter().enumerate() {
        match row {
            Ok(row) => {
                let recipient = row.recipient.as_str();
                assert_eq!(row.number, number as u64);
                assert!((1..=lines).contains(&row.line));
                let again = Address::parse(recipient).expect("was an address");
                assert_eq!(again.as_str(), recipient, "in normal form");
                assert!(recipient.is_ascii());
                let view = row.view();
                assert_eq!(view.values().count(), read.columns.len());
                assert!(view.values().all(|value| !value.contains('\0')));
                assert!(view.field(address.expect("a column")).is_some());
            }
            Err(error) => {
                assert!((1..=lines).contains(&error.line));
                check_error(error);
            }
        }
    }
    if let Err(error) = &read.ended {
        assert!(error.line <= lines);
        check_error(error);
    }
}

/// What was read, written by RFC 4180, is read as the same.
fn written_again(read: &Rows) {
    let good: Vec<&Row> = read.rows.iter().flatten().collect();
    if good.is_empty() {
        return;
    }
    let mut text = String::new();
    let mut line = |values: &mut dyn Iterator<Item = &str>| {
        let quoted: Vec<String> = values
            .map(|value| format!("\"{}\"", value.replace('"', "\"\"")))
            .collect();
        text.push_str(&quoted.join(","));
        text.push_str("\r\n");
    };
    line(&mut read.columns.iter().map(|name| &**name));
    for row in &good {
        line(&mut row.view().values());
    }
    let again = read_rows("rows.csv", &[text.as_bytes()]);
    assert_eq!(again.ended, Ok(()), "{text:?}");
    assert_eq!(again.columns, read.columns);
    assert_eq!(again.rows.len(), good.len());
    for (row, before) in again.rows.iter().zip(good) {
        let row = row.as_ref().expect("was a row");
        assert_eq!(
            (&row.recipient, &row.fields),
            (&before.recipient, &before.fields)
        );
    }
}

/// `job.toml`, the files that it names, and rows, with [`BETWEEN`] between them. Whatever a row says: its message is the
/// same each time, canonical, and has the fields that all messages of the job have; or it is refused.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Whoever writes templates is trusted with memory within one rendering (the README says so).
    if [
        "range", "set ", "for ", "macro", " * ", "~", "replace", "join", "center", "pprint",
    ]
    .iter()
    .any(|word| text.contains(word))
    {
        return;
    }
    let Some((document, rest)) = text.split_once(BETWEEN) else {
        return;
    };
    let (between, rows) = rest.rsplit_once(BETWEEN).unwrap_or(("", rest));
    let mut parts = between.split(BETWEEN);
    let job = match hikyaku::job::Job::parse(document) {
        Ok(job) => job,
        Err(error) => return check_error(&error),
    };
    let read = read_rows(
        if rows.trim_start().starts_with('{') {
            "rows.jsonl"
        } else {
            "rows.csv"
        },
        &[rows.as_bytes()],
    );
    let mut files: Vec<(Box<str>, std::sync::Arc<[u8]>)> =
        vec![("job.toml".into(), document.as_bytes().into())];
    for name in job.files() {
        if files.iter().all(|(there, _)| **there != *name) {
            let content = parts.next().unwrap_or_default();
            files.push((name.into(), content.as_bytes().into()));
        }
    }
    let bundle = Bundle {
        id: SubmissionId(7),
        accepted_ms: 1_700_000_000_000,
        columns: read.columns,
        files,
    };
    let compile = || Template::compile(&bundle, &Secret::new(&[7; 32]));
    let template = match compile() {
        Ok(template) => template,
        Err(error) => return check_error(&error),
    };
    let other = compile().expect("as before");
    let mut fields: Vec<(Option<String>, Vec<String>)> = Vec::new();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for row in read.rows.iter().flatten().take(ROWS_MAX) {
        one.clear();
        two.clear();
        let view = row.view();
        let made = template.render(view, &mut one);
        assert_eq!(
            made,
            other.render(view, &mut two),
            "the same on every attempt"
        );
        assert!(one == two, "the same on every attempt");
        if let Err(error) = made {
            assert!(one.is_empty());
            check_error(&error.cause);
            continue;
        }
        let path = template.reverse_path(view);
        assert!(path.is_empty() || Address::parse(&path).is_ok(), "{path:?}");
        let names = check_message(&one);
        let variant = template.variant(view).map(str::to_owned);
        match fields.iter().find(|(of, _)| *of == variant) {
            Some((_, wanted)) => assert_eq!(*wanted, names, "fields do not come from rows"),
            None => fields.push((variant, names)),
        }
    }
}

/// What stands between the parts of an input of [`template`].
const BETWEEN: &str = "\n====\n";
/// Rows of an input that are rendered.
const ROWS_MAX: usize = 8;

/// The names of the header's fields, in their order.
fn check_message(message: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(message).expect("seven bits");
    assert!(text.is_ascii(), "{text:?}");
    assert!(!text.contains('\0'));
    assert!(text.ends_with("\r\n"));
    for line in text.split_terminator("\r\n") {
        assert!(!line.contains(['\r', '\n']), "{line:?}");
        assert!(line.len() <= LINE_MAX, "{line:?}");
    }
    let (header, _) = text.split_once("\r\n\r\n").expect("a header and a body");
    let mut names = Vec::new();
    for line in header.split("\r\n") {
        if line.starts_with([' ', '\t']) {
            assert!(!names.is_empty() && !line.trim().is_empty(), "{line:?}");
            continue;
        }
        let (name, _) = line.split_once(':').expect("a field");
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{line:?}");
        names.push(name.to_ascii_lowercase());
    }
    for once in [
        "from",
        "to",
        "date",
        "subject",
        "message-id",
        "mime-version",
    ] {
        assert!(
            names.iter().filter(|name| *name == once).count() <= 1,
            "{once} twice: {header}"
        );
    }
    names
}
