//! Merge files: what they come to, and what refuses them, wherever chunks end.

use proptest::prelude::*;

use super::*;
use crate::job::template::Template;
use crate::job::token::{Purpose, Secret, Token};

/// What a recipient gets: address, reverse-path, job, source, envid, message.
type Sent = (String, String, [Option<Box<str>>; 3], String);

const TIME: u64 = 1_795_312_800_000;

fn secret() -> Secret {
    Secret::new(&[42; 32])
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for cut in cuts {
        pieces.push(&bytes[from..cut]);
        from = cut;
    }
    pieces.push(&bytes[from..]);
    pieces
}

fn survey(file: &[u8], cuts: &[usize], limits: &Limits) -> Result<MergeSurvey, Refusal> {
    let mut reader = MergeReader::new(SubmissionId(7 << 64), TIME, limits.clone());
    let feed = |reader: &mut MergeReader, bytes: &[u8]| {
        pieces(bytes, cuts).into_iter().try_for_each(|piece| {
            let fed = reader.feed(piece);
            if fed.is_err() {
                assert_eq!(reader.feed(b"NOOP\r\n"), fed, "stays refused");
            }
            fed
        })
    };
    feed(&mut reader, file)?;
    loop {
        match reader.finish()? {
            MergePass::Done(survey) => return Ok(*survey),
            MergePass::Again(again, range) => {
                reader = *again;
                feed(&mut reader, &file[range.start as usize..range.end as usize])?;
            }
        }
    }
}

fn read(file: &[u8], cuts: &[usize], limits: &Limits) -> Result<(Vec<Sent>, u64), Refusal> {
    let survey = survey(file, cuts, limits)?;
    let range = survey.rows_at.start as usize..survey.rows_at.end as usize;
    let mut rows = Vec::new();
    let mut pass = survey.read_rows()?;
    for piece in pieces(&file[range], cuts) {
        pass.feed(piece, &mut rows)?;
    }
    pass.finish(&mut rows)?;
    assert_eq!(rows.len() as u64, survey.recipients());
    let template = Template::compile(&survey.bundle, &secret()).expect("compiles");
    let sent = rows.iter().map(|MergeRow { row, terms, .. }| {
        let mut message = Vec::new();
        template
            .render(row.view(), &mut message)
            .expect("a message");
        (
            row.recipient.as_str().to_owned(),
            template.reverse_path(row.view()),
            [&terms.job, &terms.source, &terms.envid].map(Clone::clone),
            String::from_utf8(message).expect("UTF-8"),
        )
    });
    Ok((sent.collect(), survey.duplicates))
}

fn good(file: &str) -> Vec<Sent> {
    let crlf = file.replace('\n', "\r\n");
    let (sent, duplicates) = read(crlf.as_bytes(), &[], &Limits::default()).expect("accepted");
    assert_eq!(duplicates, 0);
    let lf = read(file.as_bytes(), &[], &Limits::default()).expect("bare LF throughout");
    assert_eq!(lf.0, sent);
    sent
}

/// The example of `formats.md` §3, with a third recipient.
const EXAMPLE: &str = "XMRG FROM:<travelAlerts@example.com> VERP
XDFN FName=\"Alice\" Airport=\"IAD\" MilesToBonus=\"120\"
XDFN City=\"Herndon\" *parts=1-3 *vmta=\"mta4\" *jobid=\"TravelAlerts\"
RCPT TO:<alice@example.com>
XDFN FName=\"Bob\" Airport=\"BWI\" City=\"Ellicott City\" *parts=1,3
RCPT TO:<bob@example.com>
XDFN fname=Cyd AIRPORT=NRT milestobonus=7 *PARTS=\"1,3,2\" City=\"{{ 7 }} [FName]\"
RCPT TO:<cyd@example.com>
XPRT 1
From: \"Customer Service\" [*from]
To: \"[FName]\" [*to]
Date: [*date]
Subject: Travel Plans

Dear [FName], … from [City]
.
XPRT 2
… [MilesToBonus] …
..dot
.
XPRT 3 LAST
… [airport] [[]
.
";

#[test]
fn the_example_comes_to_what_its_format_says() {
    let sent = good(EXAMPLE);
    let message = |name: &str, city: &str, rest: &str| {
        let lower = name.to_lowercase();
        format!(
            "From: \"Customer Service\" <travelAlerts@example.com>\nTo: \"{name}\" <{lower}@example.com>\n\
             Date: Sun, 22 Nov 2026 02:00:00 +0000\nSubject: Travel Plans\n\nDear {name}, … from {city}\n{rest}"
        )
        .replace('\n', "\r\n")
    };
    let wanted = [
        message("Alice", "Herndon", "… 120 …\n.dot\n… IAD [\n"),
        message("Bob", "Ellicott City", "… BWI [\n"),
        message("Cyd", "{{ 7 }} [FName]", "… NRT [\n… 7 …\n.dot\n"),
    ];
    for ((number, wanted), (address, path, terms, said)) in (0..).zip(&wanted).zip(&sent) {
        assert_eq!(said, wanted, "{address}");
        let (local, domain) = path.split_once('@').expect("an address");
        assert_eq!(domain, "example.com");
        let token = local.strip_prefix("travelAlerts+").expect("a token");
        let (_, row) = Token::verify(&secret(), Purpose::Bounce, token).expect("genuine");
        assert_eq!(row, number);
        let alice = [Some("TravelAlerts".into()), Some("mta4".into()), None];
        assert_eq!(
            *terms,
            if number == 0 {
                alice
            } else {
                Default::default()
            }
        );
    }
    assert_eq!(sent.len(), 3);
}

/// A merge around these recipients and parts.
fn file(rows: &str, parts: &str) -> String {
    format!("XMRG FROM:<n@s.test>\n{rows}\n{parts}")
}

const ONE: &str = "XPRT 1 LAST\nFrom: a\n\nhi [x]\n.\n";

#[test]
fn terms_are_of_the_recipient_or_of_the_file() {
    let parameters = "XJOB=all XVMTA=pool ENVID=e XONDOUBT=hold BODY=8BITMIME";
    let file = format!(
        "EHLO x\nXACK ON\n\nNOOP\nXMRG FROM: <n@s.test> {parameters}\nXDFN x=1\nRCPT TO:<a@a.test>\n\
         NOOP\nXDFN x=2 *jobid=own *from=b@c.test\nXDFN *vmta=v *envid=f *priority=50\nRCPT TO:<b@a.test> NOTIFY=NEVER\n\
         XPRT 1 last\nFrom: [*from]\nX-Job: x\n\nhi [x]\n.\nRSET\nQUIT\n"
    );
    let sent = good(&file);
    let text = |text: &str| Some(text.into());
    assert_eq!(sent[0].2, [text("all"), text("pool"), text("e")]);
    assert_eq!(sent[1].2, [text("own"), text("v"), text("f")]);
    assert_eq!((&*sent[0].1, &*sent[1].1), ("n@s.test", "b@c.test"));
    assert_eq!(sent[1].3, "From: b@c.test\r\nX-Job: x\r\n\r\nhi 2\r\n");
    let survey = survey(file.as_bytes(), &[], &Limits::default()).expect("accepted");
    assert_eq!(survey.job, None);
    let hold = Some(crate::mail::envelope::OnDoubt::Hold);
    assert_eq!(survey.envelope.on_doubt, hold);
}

#[test]
fn priority_is_the_jobs() {
    let terms = |rows: &str| {
        let survey = survey(file(rows, ONE).as_bytes(), &[], &Limits::default());
        survey.map(|survey| survey.bundle.terms().expect("readable"))
    };
    let one = "XDFN x=1 *jobid=j *priority=7\nRCPT TO:<a@a.test>\n";
    let found = terms(&format!("{one}{}", one.replace("a@a", "b@a")));
    let found = found.expect("accepted").expect("terms");
    assert_eq!((&*found.name, found.priority), ("j", 7));
    let mixed = format!("{one}{}", one.replace("=j", "=k"));
    assert_eq!(terms(&mixed).expect_err("refused").code, code::MERGE);
    let mixed = mixed.replace("*priority=7", "");
    assert_eq!(terms(&mixed).expect("accepted"), None);
    let differs = format!("{one}{}", one.replace("=7", "=8"));
    assert_eq!(terms(&differs).expect_err("refused").line, 5);
    let nameless = one.replace("*jobid=j", "");
    assert_eq!(terms(&nameless).expect_err("refused").line, 3);
}

#[test]
fn the_first_of_an_address_counts() {
    let rows = "XDFN x=1\nRCPT TO:<a@a.test>\nXDFN x=2\nRCPT TO:<A@a.test>\nXDFN x=3\nRCPT TO:<a@A.test>\n";
    let file = file(rows, ONE);
    let (sent, duplicates) = read(file.as_bytes(), &[], &Limits::default()).expect("accepted");
    assert_eq!(duplicates, 1);
    let said: Vec<_> = sent.iter().map(|sent| (&*sent.0, &sent.3[11..])).collect();
    assert_eq!(said, [("a@a.test", "hi 1\r\n"), ("A@a.test", "hi 2\r\n")]);
}

#[test]
fn a_name_is_needed_where_it_is_used() {
    let rows = "XDFN *parts=1\nRCPT TO:<a@a.test>";
    let parts = "XPRT 1\nFrom: a\n\nhi\n.\nXPRT 2 LAST\n[y]\n.\n";
    assert_eq!(good(&file(rows, parts)).len(), 1);
    let refused = |rows: &str| {
        let file = file(rows, parts);
        read(file.as_bytes(), &[], &Limits::default()).expect_err("refused")
    };
    let refusal = refused("XDFN *parts=1-2\nRCPT TO:<a@a.test>");
    assert_eq!((refusal.code, refusal.line), (code::MERGE, 3));
    assert_eq!(
        refusal.detail,
        "a@a.test: part 2 (line 10) names [y], and no XDFN defines it for this recipient"
    );
    for (rows, what) in [
        ("RCPT TO:<a@a.test>", "no *parts, and there are 2 parts"),
        ("XDFN *parts=1,3\nRCPT TO:<a@a.test>", "names part 3"),
        (
            "XDFN *parts=2 y=1\nRCPT TO:<a@a.test>",
            "begins a line of the header",
        ),
    ] {
        let refusal = refused(rows);
        assert!(refusal.detail.contains(what), "{refusal}");
    }
}

/// A file, the code and the line of its refusal.
#[test]
fn refusals() {
    let x = "XDFN x=1\nRCPT TO:<a@a.test>";
    let with = |rows: &str| file(rows, ONE);
    let then = |parts: &str| file(x, parts);
    let define = |definition: &str| with(&format!("XDFN {definition}\nRCPT TO:<a@a.test>"));
    let long = "y".repeat(1000);
    let table: Vec<(String, &str, u64)> = vec![
        // Order of commands.
        ("XDFN x=1\n".into(), code::COMMAND, 1),
        ("MAIL FROM:<a@b.test>\n".into(), code::COMMAND, 1),
        ("QUIT\n".into(), code::COMMAND, 1),
        ("XACK OFF\nXMRG FROM:<a@b.test>\n".into(), code::COMMAND, 1),
        ("EHLO x\n".into(), code::TRUNCATED, 2),
        ("XMRG FROM:<a@b.test>".into(), code::TRUNCATED, 1),
        (with("XMRG FROM:<a@b.test>"), code::COMMAND, 2),
        (with("MAIL FROM:<a@b.test>"), code::COMMAND, 2),
        (with("RSET"), code::COMMAND, 2),
        (with("DATA"), code::COMMAND, 2),
        (with("QUIT"), code::COMMAND, 2),
        (with("NOOP"), code::COMMAND, 3),
        (with(&format!("{x}\nXDFN x=2")), code::COMMAND, 5),
        (with(x).replace(" LAST", ""), code::TRUNCATED, 9),
        (with(x).replace("\n.\n", "\n"), code::TRUNCATED, 8),
        (with(x).replace("\n.\n", "\n."), code::TRUNCATED, 8),
        (with(x) + "XPRT 2\n", code::COMMAND, 9),
        (with(x) + "MAIL FROM:<a@b.test>\n", code::COMMAND, 9),
        (with(x) + "XMRG FROM:<a@b.test>\n", code::COMMAND, 9),
        (with(x) + "QUIT\nNOOP\n", code::COMMAND, 10),
        (with(x) + ".\n", code::COMMAND, 9),
        (
            then("XPRT 1\nFrom: a\n\nhi\n.\nRCPT TO:<b@a.test>\n"),
            code::COMMAND,
            9,
        ),
        // XMRG.
        ("XMRG FROM:a@b.test\n".into(), code::COMMAND, 1),
        ("XMRG FROM:<a b@c.test>\n".into(), code::ADDRESS, 1),
        ("XMRG FROM:<> VERP\n".into(), code::ADDRESS, 1),
        (
            "XMRG FROM:<sixteen.and.more@b.test> VERP\n".into(),
            code::ADDRESS,
            1,
        ),
        ("XMRG FROM:<\"a b\"@b.test> VERP\n".into(), code::ADDRESS, 1),
        ("XMRG FROM:<\u{e4}@b.test>\n".into(), code::ADDRESS, 1),
        ("XMRG FROM:<a@b.test> VERP=1\n".into(), code::PARAMETER, 1),
        ("XMRG FROM:<a@b.test> FOO\n".into(), code::PARAMETER, 1),
        (
            with(x).replace("test>\nXDFN x=1", "test> BODY=7BIT\nXDFN x=\u{e4}"),
            code::EIGHT_BIT,
            3,
        ),
        // XDFN.
        (define(""), code::MERGE, 2),
        (define("x"), code::MERGE, 2),
        (define("x="), code::MERGE, 2),
        (define("=x"), code::MERGE, 2),
        (define("x =1"), code::MERGE, 2),
        (define("x= 1"), code::MERGE, 2),
        (define("x=\"1"), code::MERGE, 2),
        (define("x=\"1\"2"), code::MERGE, 2),
        (define("x=\"1\"y=2"), code::MERGE, 2),
        (define("x=1\"2"), code::MERGE, 2),
        (define("x=\"\\\"\""), code::MERGE, 2),
        (define("x=a\\b"), code::MERGE, 2),
        (define("x=1 X=2"), code::MERGE, 2),
        (define("1x=1"), code::MERGE, 2),
        (define("x-y=1"), code::MERGE, 2),
        (define("x=1 *all=2"), code::MERGE, 2),
        (define("x=1 *to=a@b.test"), code::MERGE, 2),
        (define("x=1 *date=now"), code::MERGE, 2),
        (define("x=1 *schedule=now"), code::MERGE, 2),
        (define("x=1 *priority=0"), code::MERGE, 2),
        (define("x=1 *priority=101"), code::MERGE, 2),
        (define("x=1 *priority=+5"), code::MERGE, 2),
        (define("x=1 *jobid=\"a b\""), code::ENVELOPE, 2),
        (define("x=1 *vmta=\"\""), code::ENVELOPE, 2),
        (define("x=1 *from=<a@b.test>"), code::ADDRESS, 2),
        (define("x=1 *from=\"\""), code::ADDRESS, 2),
        (define("x=1 *parts=2"), code::MERGE, 3),
        (define("x=1 *parts=0"), code::MERGE, 2),
        (define("x=1 *parts=256"), code::MERGE, 2),
        (define("x=1 *parts=1,1"), code::MERGE, 2),
        (define("x=1 *parts=1-99999999999999999999"), code::MERGE, 2),
        (define("x=1 *parts=3-1"), code::MERGE, 2),
        (define("x=1 *parts=1,"), code::MERGE, 2),
        (define("x=1 *parts=1-"), code::MERGE, 2),
        (define("x=1 *parts=\"1, 2\""), code::MERGE, 2),
        (define("x=\u{85}"), code::MERGE, 2),
        (define("x=\u{2028}"), code::MERGE, 2),
        (define("x=a\tb"), code::COMMAND, 2),
        (define("x=a\0b"), code::COMMAND, 2),
        (define("x=a\rb"), code::COMMAND, 2),
        (
            define(&format!("x={}", "y".repeat(lines::COMMAND_MAX))),
            code::LINE_LENGTH,
            2,
        ),
        (define("x=\u{1b}[31m"), code::COMMAND, 2),
        (
            define("x=1").replace("XDFN", "XDFN\u{a0}"),
            code::COMMAND,
            2,
        ),
        // RCPT.
        (with("XDFN x=1\nRCPT TO:<>"), code::ADDRESS, 3),
        (with("XDFN x=1\nRCPT TO:a@b.test"), code::COMMAND, 3),
        (with("XDFN x=1\nRCPT TO:<\u{e4}@b.test>"), code::ADDRESS, 3),
        (
            with("XDFN x=1\nRCPT TO:<a@b.test> FOO=1"),
            code::PARAMETER,
            3,
        ),
        // XPRT.
        (then("XPRT\n"), code::MERGE, 4),
        (then("XPRT 0\n"), code::MERGE, 4),
        (then("XPRT 2\n"), code::MERGE, 4),
        (then("XPRT 1 LAST 2\n"), code::MERGE, 4),
        (then("XPRT 1 FIRST\n"), code::MERGE, 4),
        (then("XPRT +1\n"), code::MERGE, 4),
        (then("XPRT LAST\n"), code::MERGE, 4),
        (then("XPRT 1\nFrom: a\n\nhi\n.\nXPRT 1\n"), code::MERGE, 9),
        (then("XPRT 1\nFrom: a\n\nhi\n.\nXPRT 3\n"), code::MERGE, 9),
        (then("XPRT 1 LAST\n.\n"), code::MERGE, 5),
        (then("XPRT 1 LAST\nFrom: a\n\n\nhi [x\n.\n"), code::MERGE, 8),
        (then("XPRT 1 LAST\nFrom: a\n\nhi [1]\n.\n"), code::MERGE, 7),
        // What the lines of a part may be, as in any content.
        (then("XPRT 1 LAST\nFrom: a\n\nh\0i\n.\n"), code::NUL, 7),
        (then("XPRT 1 LAST\nFrom: a\n\nh\ri\n.\n"), code::BARE_CR, 7),
        (
            then("XPRT 1 LAST\nFrom: a\n\nh\r\n.\n"),
            code::DOT_AMBIGUOUS,
            8,
        ),
        (
            then("XPRT 1 LAST\nFrom: a\n\nh\n.\r\n"),
            code::DOT_AMBIGUOUS,
            8,
        ),
        (
            then(&format!("XPRT 1 LAST\nFrom: a\n\n{long}\n.\n")),
            code::LINE_LENGTH,
            7,
        ),
        (then("XPRT 1 LAST\r\nFrom: a\n"), code::LINE_END, 4),
        (
            with(x).replace("XDFN x=1\n", "XDFN x=1\r\n"),
            code::LINE_END,
            2,
        ),
        // What a message must be.
        (then("XPRT 1 LAST\nSubject: a\n\nhi\n.\n"), code::HEADER, 3),
        (then("XPRT 1 LAST\n\nhi\n.\n"), code::HEADER, 3),
        (
            then("XPRT 1 LAST\nFrom: a\nno field\n\nhi\n.\n"),
            code::HEADER,
            3,
        ),
        (
            then("XPRT 1 LAST\nFrom: a\n[x]: b\n\nhi\n.\n"),
            code::MERGE,
            3,
        ),
        (
            file(
                &format!("XDFN x={}\nRCPT TO:<a@a.test>", &long[..990]),
                "XPRT 1 LAST\nFrom: a\n\n[x]123456789\n.\n",
            ),
            code::LINE_LENGTH,
            3,
        ),
        (
            with(x)
                .replace("n@s.test", "")
                .replace("From: a", "From: [*from]"),
            code::MERGE,
            3,
        ),
    ];
    for (file, code, line) in &table {
        for file in [file.clone(), file.replace('\n', "\r\n")] {
            // The mixed ones mean something else in the other kind of file.
            if file.contains("\r\r") || file.matches("\r\n").count() > 0 && code_of_mix(code) {
                continue;
            }
            let refusal = read(file.as_bytes(), &[], &Limits::default())
                .expect_err(&format!("{file:?} is refused"));
            let found = (refusal.code, refusal.line);
            assert_eq!(found, (*code, *line), "{file:?}: {refusal}");
            assert!(!refusal.to_string().contains(char::is_control), "{refusal}");
        }
    }
    for (file, code, line) in table.iter().filter(|(_, code, _)| code_of_mix(code)) {
        let refusal = read(file.as_bytes(), &[], &Limits::default()).expect_err("mixed");
        assert_eq!(
            (refusal.code, refusal.line),
            (*code, *line),
            "{file:?}: {refusal}"
        );
    }
}

fn code_of_mix(code: &str) -> bool {
    matches!(code, code::LINE_END | code::DOT_AMBIGUOUS)
}

#[test]
fn limits_hold() {
    let x = "XDFN x=1\nRCPT TO:<a@a.test>\nXDFN x=1\nRCPT TO:<b@a.test>";
    let check = |limits: Limits, wanted: (&str, u64)| {
        let refusal = read(file(x, ONE).as_bytes(), &[], &limits).expect_err("refused");
        assert_eq!((refusal.code, refusal.line), wanted, "{refusal}");
    };
    let usual = Limits::default;
    let recipients_per_file_max = 1;
    check(
        Limits {
            recipients_per_file_max,
            ..usual()
        },
        (code::LIMIT, 5),
    );
    check(
        Limits {
            message_bytes_max: 14,
            ..usual()
        },
        (code::MESSAGE_SIZE, 9),
    );
    check(
        Limits {
            line_bytes_max: 5,
            ..usual()
        },
        (code::LINE_LENGTH, 7),
    );
}

#[test]
fn many_addresses_need_more_passes() {
    let mut rows = String::new();
    for row in 0..3000 {
        use std::fmt::Write as _;
        let _ = write!(rows, "XDFN x={row}\nRCPT TO:<u{}@a.test>\n", row % 2000);
    }
    let file = file(&rows, ONE);
    let (sent, duplicates) =
        read(file.as_bytes(), &[5000, 70_000], &Limits::default()).expect("accepted");
    assert_eq!((sent.len(), duplicates), (2000, 1000));
    assert!(
        sent.iter()
            .zip(0..)
            .all(|(sent, row)| sent.3.ends_with(&format!("hi {row}\r\n")))
    );
}

#[test]
fn a_file_that_changes_in_between_is_refused() {
    let before = file("XDFN x=1\nRCPT TO:<a@a.test>", ONE);
    let survey = survey(before.as_bytes(), &[], &Limits::default()).expect("accepted");
    let rows = before[survey.rows_at.start as usize..survey.rows_at.end as usize].to_owned();
    let mut pass = survey.read_rows().expect("a pass");
    let mut out = Vec::new();
    pass.feed(rows.replace("x=1", "x=2").as_bytes(), &mut out)
        .expect("rows");
    assert_eq!(pass.finish(&mut out), Err(changed()));
}

proptest! {
    /// Any cuts, the same verdict; octets are those that the format is made of.
    #[test]
    fn verdicts_do_not_depend_on_chunks(
        at in any::<prop::sample::Index>(),
        put in prop_oneof![Just("\r"), Just("\n"), Just("."), Just("\r\n.\r\n"), Just("\n.\n"), Just("["), Just("]"),
            Just("\""), Just("\0"), Just(" "), Just("XPRT 1\r\n"), Just("\r\nRCPT TO:<z@z.test>\r\n"), Just("")],
        cut in 0_usize..3,
        lf in any::<bool>(),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let file = if lf { EXAMPLE.to_owned() } else { EXAMPLE.replace('\n', "\r\n") };
        let mut file = file.into_bytes();
        let at = at.index(file.len());
        let to = (at + cut).min(file.len());
        file.splice(at..to, put.bytes());
        let limits = Limits { line_bytes_max: 60, ..Limits::default() };
        let show = |outcome: Result<(Vec<Sent>, u64), Refusal>| outcome.map_err(|refusal| refusal.to_string());
        // An octet above 127 may have lost its neighbours: such messages are compared as refusals only.
        if survey(&file, &[], &limits).is_ok() && std::str::from_utf8(&file).is_err() {
            return Ok(());
        }
        let whole = show(read(&file, &[], &limits));
        prop_assert_eq!(show(read(&file, &cuts, &limits)), whole.clone());
        let every: Vec<usize> = (0..file.len()).collect();
        prop_assert_eq!(show(read(&file, &every, &limits)), whole);
    }
}
