//! Whole archives through both passes.

use super::*;
use crate::job::archive::{write_end, write_header, write_padding};
use proptest::prelude::*;

const JOB: &str = "name = \"n\"\nfrom = \"a@b.test\"\nsubject = \"s\"\nreverse_path = \"r@b.test\"\n\
                   recipients.file = \"r.csv\"\ncontent.text = \"t.txt\"\n";

fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files {
        write_header(&mut bytes, name, content.len() as u64);
        bytes.extend_from_slice(content.as_bytes());
        write_padding(&mut bytes, content.len() as u64);
    }
    write_end(&mut bytes);
    bytes
}

fn chunks<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(bytes.len())).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}

fn survey(bytes: &[u8], cuts: &[usize]) -> Result<Box<Survey>, JobError> {
    let mut reader = JobReader::new(SubmissionId(7), 1000);
    for chunk in chunks(bytes, cuts) {
        reader.feed(chunk)?;
    }
    loop {
        match reader.finish()? {
            Pass::Done(survey) => return Ok(survey),
            Pass::Again(again, range) => {
                reader = *again;
                let range = range.start as usize..range.end as usize;
                for chunk in chunks(&bytes[range], cuts) {
                    reader.feed(chunk)?;
                }
            }
        }
    }
}

fn rows(survey: &Survey, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Row>, JobError> {
    let mut rows = survey.read_rows()?;
    let mut out = Vec::new();
    let range = survey.rows_at.start as usize..survey.rows_at.end as usize;
    for chunk in chunks(&bytes[range], cuts) {
        rows.feed(chunk, &mut out)?;
    }
    rows.finish(&mut out)?;
    Ok(out)
}

#[test]
fn a_job_is_read_twice() {
    let csv = "email,name\na@b.test,A\na@B.test,again\nbad,x\nA@b.test,other\n";
    let job = JOB.replace("content", "recipients.on_bad_row = \"skip\"\ncontent");
    let bytes = pack(&[("job.toml", &job), ("t.txt", "text"), ("r.csv", csv)]);
    let survey = survey(&bytes, &[]).expect("a job");
    assert_eq!(
        (
            survey.rows,
            survey.duplicates,
            survey.skipped,
            survey.recipients()
        ),
        (4, 1, 1, 2)
    );
    let first = survey.first_skipped.as_ref().expect("skipped");
    assert_eq!((&*first.file, first.line), ("r.csv", 4));
    assert_eq!(survey.bundle.file("t.txt"), Some(&b"text"[..]));
    assert_eq!(survey.bundle.file("job.toml"), Some(job.as_bytes()));
    assert_eq!(survey.bundle.file("r.csv"), None);
    assert_eq!(survey.bundle.job().as_ref(), Ok(&survey.job));
    assert_eq!(
        (survey.bundle.id, survey.bundle.accepted_ms),
        (SubmissionId(7), 1000)
    );
    let got = rows(&survey, &bytes, &[]).expect("rows");
    let got: Vec<_> = got
        .iter()
        .map(|row| (row.number, row.recipient.as_str()))
        .collect();
    assert_eq!(got, [(0, "a@b.test"), (3, "A@b.test")]);
    // The same file, but for one byte of a value.
    let mut changed = bytes.clone();
    let at = survey.rows_at.start as usize + csv.find("other").expect("there");
    changed[at] = b'O';
    let error = rows(&survey, &changed, &[]).expect_err("changed");
    assert!(
        error.what.contains("was changed while it was read"),
        "{error}"
    );
}

#[test]
fn what_is_refused_is_refused_in_the_first_pass() {
    let csv = ("r.csv", "email\na@b.test\n");
    let text = ("t.txt", "x");
    let job = ("job.toml", JOB);
    let large = "x".repeat(JOB_PARTS_MAX);
    let document = format!("{JOB}#{}", "x".repeat(JOB_DOCUMENT_MAX));
    for (files, said) in [
        (&[][..], "job.toml: the archive has no such file"),
        (
            &[text, job, csv],
            "t.txt: the first file of a job's archive must be job.toml",
        ),
        (
            &[job, csv, text],
            "t.txt: job.toml names this file, and the archive does not hold it before",
        ),
        (
            &[job, text],
            "r.csv: job.toml names this file, and the archive does not hold it",
        ),
        (
            &[job, text, csv, ("x", "y")],
            "x: it follows behind the recipients",
        ),
        (
            &[job, text, ("x", "y"), csv],
            "x: job.toml does not name this file",
        ),
        (&[job, ("t.txt", &large), csv], ""),
        (
            &[job, ("t.txt", &(large.clone() + "x")), csv],
            "t.txt: with it the files of the job are larger than 32 MiB",
        ),
        (
            &[("job.toml", &document), text, csv],
            "job.toml: larger than 256 KiB",
        ),
        (&[("job.toml", "name = 5"), text, csv], "job.toml line 1: "),
        (
            &[job, text, ("r.csv", "email\na@b.test\nbad\n")],
            "r.csv line 3: column \"email\": \"bad\": the address has no @",
        ),
        (
            &[job, text, ("r.csv", "email\n")],
            "r.csv: it has no recipients",
        ),
        (&[job, text, ("r.csv", "")], "r.csv: it has no recipients"),
        (
            &[
                (
                    "job.toml",
                    &format!("{JOB}recipients.on_bad_row = \"skip\""),
                ),
                text,
                ("r.csv", "email\nbad\nb\n"),
            ],
            "r.csv line 2: no row can be used; the first: column",
        ),
        (
            &[
                (
                    "job.toml",
                    &format!("{JOB}schedule.time_zone_field = \"tz\""),
                ),
                text,
                csv,
            ],
            "r.csv: it has no column \"tz\", which job.toml names",
        ),
    ] {
        let bytes = pack(files);
        match survey(&bytes, &[]) {
            Ok(_) => assert_eq!(said, ""),
            Err(error) => {
                assert!(
                    !said.is_empty() && error.to_string().starts_with(said),
                    "{said}: {error}"
                );
            }
        }
    }
    let mut bytes = pack(&[job, text, csv]);
    bytes.truncate(bytes.len() - 512);
    assert!(survey(&bytes, &[]).is_err(), "cut off");
}

proptest! {
    #[test]
    fn borders_do_not_matter(
        lines in proptest::collection::vec("[ab]@[bB].test|\"x\n\"|bad", 1..20),
        cuts in proptest::collection::vec(0_usize..4000, 0..10),
        skip in any::<bool>(),
    ) {
        let job = format!("{JOB}recipients.on_bad_row = \"{}\"", if skip { "skip" } else { "refuse" });
        let csv = format!("email\n{}", lines.join("\n"));
        let bytes = pack(&[("job.toml", &job), ("t.txt", "text"), ("r.csv", &csv)]);
        let (whole, cut) = (survey(&bytes, &[]), survey(&bytes, &cuts));
        match (whole, cut) {
            (Ok(whole), Ok(cut)) => {
                prop_assert_eq!(&whole.bundle, &cut.bundle);
                prop_assert_eq!(&whole.left_out, &cut.left_out);
                let got = rows(&whole, &bytes, &cuts);
                prop_assert_eq!(got.as_ref().map(|rows| rows.len() as u64), Ok(whole.recipients()));
                prop_assert_eq!(got, rows(&cut, &bytes, &[]));
            }
            (whole, cut) => prop_assert_eq!(whole.err(), cut.err()),
        }
    }

    #[test]
    fn damage_never_panics(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = pack(&[("job.toml", JOB), ("t.txt", "text"), ("r.csv", "email,n\na@b.test,x\n")]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(survey) = survey(&bytes, &[]) {
            prop_assert!(rows(&survey, &bytes, &[]).is_ok());
        }
    }
}
