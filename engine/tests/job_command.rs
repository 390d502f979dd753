//! `hikyaku drop --job` as a process: what is dropped, what a preview shows, and how each kind of
//! mistake and each hostile row ends.

mod process;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hikyaku::job::read::{JobReader, Pass};
use hikyaku::mail::id::SubmissionId;
use process::{Ended, run};
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(120);

const DOCUMENT: &str = "name = \"spring\"\nfrom = \"Shop <news@shop.example>\"\n\
    subject = \"For {{ name }}\"\nreverse_path = \"bounce+{token}@shop.example\"\n\
    [recipients]\nfile = \"rows.csv\"\n[content]\ntext = \"body.txt\"\nhtml = \"body.html\"\n";

/// A job that can be dropped, in a directory beside a drop directory.
struct Place {
    tmp: TempDir,
}

impl Place {
    fn new() -> Self {
        let tmp = tempfile::tempdir().expect("directory");
        let place = Self { tmp };
        fs::create_dir(place.path("drop")).expect("drop");
        fs::create_dir(place.path("job")).expect("job");
        place.file("job/job.toml", DOCUMENT);
        place.file("job/body.txt", "Dear {{ name }},\n\nsome text\n");
        place.file("job/body.html", "<p>Dear {{ name }},</p>\n");
        place.file("job/rows.csv", "email,name\na@a.test,Ann\nb@b.test,Bob\n");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("written");
    }

    fn hikyaku(&self, args: &[&str]) -> Ended {
        self.command("drop", args)
    }

    fn command(&self, name: &str, args: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
        command.current_dir(self.tmp.path()).arg(name).args(args);
        run(command, b"", LIMIT)
    }

    fn drop(&self) -> Ended {
        self.hikyaku(&["--job", "job", "--drop", "drop", "--json"])
    }

    /// Contents of what lies in `drop/new`; nothing may be left in `drop/tmp`.
    fn dropped(&self) -> Vec<(String, Vec<u8>)> {
        let list = |name: &str| {
            let entries = fs::read_dir(self.path(name)).into_iter().flatten();
            entries
                .map(|entry| entry.expect("entry").path())
                .collect::<Vec<_>>()
        };
        assert_eq!(list("drop/tmp"), Vec::<PathBuf>::new());
        let name = |path: &PathBuf| {
            path.file_name()
                .expect("name")
                .to_string_lossy()
                .into_owned()
        };
        let files = list("drop/new");
        files
            .iter()
            .map(|path| (name(path), fs::read(path).expect("readable")))
            .collect()
    }

    /// It ends with this error, in one line, and drops nothing.
    #[track_caller]
    fn refuses(&self, said: &str) {
        let ended = self.drop();
        assert_eq!(ended.status, Some(1), "{said}: {ended:?}");
        assert!(ended.err.contains(said), "{said}\n{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        assert_eq!(self.dropped(), [], "{said}");
    }
}

fn object(ended: &Ended) -> Value {
    assert_eq!(ended.status, Some(0), "{ended:?}");
    serde_json::from_str(&ended.out).expect("one object")
}

#[test]
fn a_job_is_dropped_as_the_engine_reads_it() {
    let place = Place::new();
    let ended = place.drop();
    let object = object(&ended);
    let files = place.dropped();
    let [(name, archive)] = &files[..] else {
        panic!("one file: {}", files.len())
    };
    assert!(
        name.starts_with("spring-") && name.ends_with(".job"),
        "{name}"
    );
    assert_eq!(object["file"], **name);
    for (key, count) in [
        ("rows", 2),
        ("recipients", 2),
        ("messages", 2),
        ("duplicates", 0),
        ("skipped", 0),
    ] {
        assert_eq!(object[key], count, "{key}");
    }
    let mut reader = JobReader::new(SubmissionId(1), 0);
    reader.feed(archive).expect("readable");
    let Ok(Pass::Done(survey)) = reader.finish() else {
        panic!("a job")
    };
    assert_eq!(survey.recipients(), 2);
    let names: Vec<_> = survey
        .bundle
        .files
        .iter()
        .map(|(name, _)| &**name)
        .collect();
    assert_eq!(names, ["job.toml", "body.txt", "body.html"]);
    // For people.
    let ended = place.hikyaku(&["--job", "job", "--drop", "drop", "--no-render"]);
    assert!(
        ended
            .out
            .ends_with(".job  rows 2  recipients 2  duplicates 0\n"),
        "{}",
        ended.out
    );
}

#[test]
fn the_example_is_written_and_dropped() {
    let place = Place::new();
    let ended = place.hikyaku(&["--job-example", "made/spring"]);
    assert_eq!(
        (ended.status, ended.out.lines().count()),
        (Some(0), 5),
        "{ended:?}"
    );
    let ended = place.hikyaku(&["--job-example", "made/spring"]);
    assert_eq!(
        ended.status,
        Some(1),
        "what is there is not replaced: {ended:?}"
    );
    let ended = place.hikyaku(&["--job", "made/spring", "--drop", "drop", "--json"]);
    assert_eq!(object(&ended)["recipients"], 3);
    let ended = place.hikyaku(&["--job", "made/spring", "--preview", "2"]);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    for said in [
        "row           2, recipients.csv line 3\n",
        "recipient     jiro@b.example\n",
        "PREVIEW ONLY",
        "Subject: 鈴木, \"ジロー\" 二郎様 春のセール\n",
        "--- text/plain\n鈴木, \"ジロー\" 二郎 様\n",
        "--- text/html\n",
        "--- image/png",
    ] {
        assert!(ended.out.contains(said), "{said}\n{}", ended.out);
    }
}

#[test]
fn previews() {
    let place = Place::new();
    place.file(
        "job/rows.csv",
        "email,name\na@a.test,Ann\na@A.test,Again\nc@c.test,Cy\n",
    );
    let raw = place.hikyaku(&[
        "--job",
        "job",
        "--preview",
        "3",
        "--raw",
        "--write",
        "3.eml",
    ]);
    assert_eq!(raw.status, Some(0), "{raw:?}");
    assert_eq!(
        fs::read_to_string(place.path("3.eml")).expect("written"),
        raw.out
    );
    assert!(raw.out.contains("\r\nSubject: For Cy\r\n"), "{}", raw.out);
    assert!(
        raw.out.contains("\r\nTo: c@c.test\r\n") || raw.out.starts_with("To: c@c.test\r\n"),
        "{}",
        raw.out
    );
    let json = object(&place.hikyaku(&["--job", "job", "--preview", "1", "--json"]));
    assert_eq!(
        (&json["row"], &json["line"], &json["secret"]),
        (&1.into(), &2.into(), &"preview".into())
    );
    let reverse_path = json["reverse_path"].as_str().expect("text");
    assert!(reverse_path.starts_with("bounce+") && reverse_path.ends_with("@shop.example"));
    // A spool that has no secret is not given one by somebody who only looks.
    fs::create_dir(place.path("spool")).expect("spool");
    for (args, said) in [
        (&["--preview", "2"][..], "row 2 gets no message"),
        (&["--preview", "4"], "row 4 is not there: it has 3 rows"),
        (
            &["--preview", "1", "--write", "3.eml"],
            "3.eml: File exists",
        ),
        (
            &["--preview", "1", "--spool", "spool"],
            "spool/secret: No such file",
        ),
    ] {
        let ended = place.hikyaku(&[&["--job", "job"], args].concat());
        assert_eq!(ended.status, Some(1), "{ended:?}");
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
    }
    assert_eq!(place.dropped(), [], "a preview drops nothing");
    hikyaku::io::secret::load(&place.path("spool")).expect("made");
    let real = object(&place.hikyaku(&[
        "--job",
        "job",
        "--preview",
        "1",
        "--json",
        "--spool",
        "spool",
    ]));
    assert_eq!(real["secret"], "spool");
    assert_ne!(real["reverse_path"], json["reverse_path"]);
}

#[test]
fn mistakes_are_named_by_file_and_line() {
    for (file, content, said) in [
        (
            "job/job.toml",
            "name = \"x\"\nform = \"a@b.test\"\n",
            "job: job.toml line 2: unknown field `form`",
        ),
        (
            "job/job.toml",
            "\u{feff}name = x\n",
            "job: job.toml line 1: ",
        ),
        (
            "job/rows.csv",
            "email,name\na@a.test,Ann\nb@@b.test,Bob\n",
            "job: rows.csv line 3: column \"email\": \"b@@b.test\": the address has more than one @",
        ),
        (
            "job/rows.csv",
            "email,nom\na@a.test,Ann\n",
            "subject: there is no field `name`; the recipients have email, nom",
        ),
        (
            "job/rows.csv",
            "mail,name\na@a.test,Ann\n",
            "job: rows.csv line 1: no column \"email\"",
        ),
        (
            "job/rows.csv",
            "email,name\na@a.test\n",
            "job: rows.csv line 2: the row has 1 fields, the header line 2",
        ),
        (
            "job/body.txt",
            "Dear\n\n{{ name }\n",
            "job: body.txt line 3: ",
        ),
        (
            "job/body.html",
            "<p>\n{% if name %}\n",
            "job: body.html line ",
        ),
        ("job/body.txt", "{{ nmae }}\n", "job: body.txt line 1: "),
    ] {
        let place = Place::new();
        place.file(file, content);
        place.refuses(said);
    }
    let place = Place::new();
    fs::remove_file(place.path("job/body.html")).expect("there");
    place.refuses("cannot open job/body.html: No such file");
    let place = Place::new();
    fs::remove_dir_all(place.path("job")).expect("there");
    place.refuses("cannot open job/job.toml: No such file");
    // A template that fails for one row only.
    let place = Place::new();
    place.file("job/rows.csv", "email,name\na@a.test,Ann\nb@b.test,Bob\n");
    place.file(
        "job/body.txt",
        "{% if name == \"Bob\" %}{{ 1 // 0 }}{% endif %}\n",
    );
    place.refuses("job: rows.csv line 3: body.txt");
    let ended = place.hikyaku(&["--job", "job", "--drop", "drop", "--no-render"]);
    assert_eq!(ended.status, Some(0), "nobody looked: {ended:?}");
}

#[test]
fn the_command_line_is_checked() {
    let place = Place::new();
    for args in [
        &["--job", "job"][..],
        &["--job", "job", "--drop", "drop", "x.eml"],
        &["--job", "job", "--drop", "drop", "--from", "a@b.test"],
        &["--drop", "drop", "--preview", "1"],
        &["--job", "job", "--preview", "0"],
        &["--job", "job", "--drop", "drop", "--raw"],
        &["--job-example", "x", "--drop", "drop"],
    ] {
        let ended = place.hikyaku(args);
        assert_eq!(ended.status, Some(2), "{args:?} {ended:?}");
    }
}

#[test]
fn hostile_rows_end_as_documented() {
    // Data that a header field must not take: refused, with the row's line.
    let place = Place::new();
    place.file(
        "job/rows.csv",
        "email,name\na@a.test,\"Ann\r\nBcc: x@y.test\"\n",
    );
    place.refuses("job: rows.csv line 2: ");
    // One megabyte in a field, and invalid UTF-8.
    place.file(
        "job/rows.csv",
        format!("email,name\na@a.test,{}\n", "x".repeat(1 << 20)),
    );
    place.refuses("job: rows.csv line 2: field 2 is longer than 64 KiB");
    place.file(
        "job/rows.csv",
        b"email,name\na@a.test,ok\nb@b.test,\x93\xfa\x96\x7b\n",
    );
    place.refuses("job: rows.csv line 3: column \"name\": not valid UTF-8: save the file as UTF-8");
    place.file("job/rows.csv", b"email,name\na@a.test,\"open\n");
    place.refuses("job: rows.csv line 2: the quote that is opened here is never closed");
    place.file("job/rows.csv", "email,name\nä@b.test,x\n");
    place.refuses("the local part is not ASCII");
    // Left out and counted, where the job says so.
    let skip = DOCUMENT.replace(
        "file = \"rows.csv\"",
        "file = \"rows.csv\"\non_bad_row = \"skip\"",
    );
    place.file("job/job.toml", skip);
    place.file(
        "job/rows.csv",
        b"email,name\na@a.test,ok\nb@b.test,\x93\xfa\nno,x\n",
    );
    let json = object(&place.drop());
    assert_eq!(
        (&json["recipients"], &json["skipped"]),
        (&1.into(), &2.into())
    );
    let first = json["first_skipped"].as_str().expect("text");
    assert!(
        first.starts_with("rows.csv line 3: column \"name\": not valid UTF-8"),
        "{first}"
    );
    // Formulas and template syntax are data.
    let place = Place::new();
    let rows =
        "email,name\n=1+1@a.test,=cmd|'/c calc'!A1\nb@b.test,{{ 7*7 }}{% raw %}\nc@c.test,<b>&\n";
    place.file("job/rows.csv", rows);
    assert_eq!(object(&place.drop())["recipients"], 3);
    for (row, subject, html) in [
        ("1", "=cmd|'/c calc'!A1", "=cmd|"),
        ("2", "{{ 7*7 }}{% raw %}", "{{ 7*7 }}{% raw %}"),
        ("3", "<b>&", "&lt;b&gt;&amp;"),
    ] {
        let ended = place.hikyaku(&["--job", "job", "--preview", row]);
        assert!(
            ended.out.contains(&format!("\nSubject: For {subject}\n")),
            "{}",
            ended.out
        );
        assert!(
            ended.out.contains(&format!("<p>Dear {html}")),
            "{}",
            ended.out
        );
    }
}

#[test]
fn duplicates_are_dropped_and_counted() {
    const ROWS: usize = 100_000;
    let place = Place::new();
    let mut rows = "email,name\n".to_owned();
    for number in 0..ROWS {
        let domain = if number % 2 == 0 { "A.test" } else { "a.test" };
        rows += &format!("same@{domain},{number}\n");
    }
    rows += "Same@a.test,other\n";
    place.file("job/rows.csv", rows);
    let json = object(&place.drop());
    assert_eq!(
        (&json["rows"], &json["recipients"], &json["duplicates"]),
        (&(ROWS + 1).into(), &2.into(), &(ROWS - 1).into())
    );
}

#[test]
fn a_job_is_checked_as_receivers_see_it() {
    let place = Place::new();
    place.hikyaku(&["--job-example", "spring"]);
    let ended = place.command("check", &["job", "spring", "--offline", "--json"]);
    let json: Value = serde_json::from_str(&ended.out).expect("one object");
    assert_eq!((&json["rows"], &json["recipients"]), (&3.into(), &3.into()));
    assert!(
        json["size_max"].as_u64() > json["size_min"].as_u64(),
        "{json}"
    );
    assert!(json["message"]["findings"].is_array(), "{json}");
    // It offers to unsubscribe, has both parts, and is found fault with only for what DNS would say.
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let ended = place.command("check", &["job", "spring", "--offline", "--row", "2"]);
    assert!(
        ended
            .out
            .contains("row 2, recipients.csv line 3, as receivers see it:"),
        "{}",
        ended.out
    );
    // Marketing mail without a way out.
    let ended = place.command("check", &["job", "job", "--offline"]);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.out.contains("List-Unsubscribe"), "{}", ended.out);
    for (row, content, said) in [
        ("9", "email,name\na@a.test,x\n", "row 9 gets no message"),
        ("1", "email,name\nbad,x\n", "job: rows.csv line 2: column"),
    ] {
        place.file("job/rows.csv", content);
        let ended = place.command("check", &["job", "job", "--offline", "--row", row]);
        assert_eq!(ended.status, Some(2), "{ended:?}");
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
    }
    assert_eq!(place.dropped(), [], "nothing is dropped");
}
