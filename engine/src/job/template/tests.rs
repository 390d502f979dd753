//! Whole messages: what goes in, what a reader gets out, and what is refused.

use std::fmt::Write as _;
use std::sync::Arc;

use mail_parser::{Message, MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

use super::*;
use crate::job::mime::plain;
use crate::job::rows::encode_field;
use crate::job::token::VERP_PREFIX_MAX;
use crate::limits::LINE_MAX;
use crate::mail::id::SubmissionId;

const ID: SubmissionId = SubmissionId(0x9f1c_22e0_8d1b_4a77_90ab_cdef_0123_4567);
const COLUMNS: [&str; 3] = ["email", "name", "code"];

fn secret() -> Secret {
    Secret::new(&[42; 32])
}

fn bundle(toml: &str, files: &[(&str, &[u8])]) -> Bundle {
    let header = "name = \"spring\"\nfrom = \"お店 <news@shop.example>\"\nreverse_path = \"bounce+{token}@shop.example\"\n";
    let toml = format!("{header}{toml}\n[recipients]\nfile = \"r.csv\"\n");
    let file = |name: &str, content: &[u8]| (name.into(), Arc::from(content));
    let mut all = vec![file("job.toml", toml.as_bytes())];
    all.extend(files.iter().map(|(name, content)| file(name, content)));
    Bundle {
        id: ID,
        accepted_ms: 1_795_312_800_000,
        columns: COLUMNS.map(Into::into).to_vec(),
        files: all,
    }
}

/// The job of most tests: a text part from a file, an HTML part from another.
fn usual(extra: &str, text: &str, html: &str) -> Bundle {
    let toml = format!(
        "subject = \"Hello {{{{ name }}}}\"\nto_name = \"{{{{ name }}}}\"\n{extra}\n[content]\ntext = \"t.txt\"\nhtml = \"h.html\"\n"
    );
    bundle(
        &toml,
        &[("t.txt", text.as_bytes()), ("h.html", html.as_bytes())],
    )
}

fn compile(bundle: &Bundle) -> Template {
    Template::compile(bundle, &secret()).expect("compiles")
}

fn refusal(bundle: &Bundle) -> String {
    Template::compile(bundle, &secret())
        .expect_err("refused")
        .to_string()
}

struct TestRow {
    number: u64,
    recipient: String,
    fields: Vec<u8>,
}

impl TestRow {
    fn new(number: u64, name: &str, code: &str) -> Self {
        let recipient = format!("r{number}@receiver.example");
        let mut fields = Vec::new();
        for value in [&recipient, name, code] {
            encode_field(&mut fields, value, &recipient);
        }
        Self {
            number,
            recipient,
            fields,
        }
    }

    fn view(&self) -> RowView<'_> {
        RowView {
            number: self.number,
            recipient: &self.recipient,
            fields: &self.fields,
        }
    }
}

fn render(template: &Template, row: &TestRow) -> Result<String, RenderError> {
    let mut out = b"kept".to_vec();
    template.render(row.view(), &mut out)?;
    let out = String::from_utf8(out).expect("7-bit");
    let message = out.strip_prefix("kept").expect("appended").to_owned();
    check_canonical(&message);
    Ok(message)
}

fn check_canonical(message: &str) {
    assert!(message.is_ascii());
    assert!(message.ends_with("\r\n"));
    for line in message.split_terminator("\r\n") {
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
        assert!(line.len() <= LINE_MAX, "{line:?}");
    }
}

fn parse(message: &str) -> Message<'_> {
    MessageParser::new().parse(message).expect("parses")
}

/// The tree of parts, as in `mixed(alternative(text/plain text/html) image/png)`.
fn shape(message: &Message<'_>, part: usize) -> String {
    let part = &message.parts[part];
    let content_type = part.content_type().expect("a type");
    let subtype = content_type.subtype().unwrap_or_default();
    let PartType::Multipart(children) = &part.body else {
        return format!("{}/{subtype}", content_type.ctype());
    };
    let children: Vec<String> = children
        .iter()
        .map(|child| shape(message, *child as usize))
        .collect();
    format!("{subtype}({})", children.join(" "))
}

#[test]
fn a_whole_message() {
    let bundle = usual(
        "[list]\nid = \"news.shop.example\"\nlabel = \"Shop news\"\nunsubscribe = \"https://shop.example/u/{token}\"\nunsubscribe_mailto = \"u+{token}@shop.example\"\n[headers]\nX-Campaign = \"spring-{{ code }}\"",
        "Hello {{ name }}, {{ email }}\n{{ unsubscribe_url }}\n",
        "<p>Hello {{ name }}, see <a href=\"{{ unsubscribe_url }}\">this</a></p>",
    );
    let template = compile(&bundle);
    let row = TestRow::new(7, "山田 <花子>", "A&B");
    let message = render(&template, &row).expect("renders");
    let token = |purpose| Token::sign(&secret(), purpose, JobId::from(ID), 7);
    let unsubscribe = token(Purpose::Unsubscribe);
    let head = format!(
        "Date: Sun, 22 Nov 2026 02:00:00 +0000\r\n\
         From: =?utf-8?B?44GK5bqX?= <news@shop.example>\r\n\
         To: =?utf-8?B?5bGx55SwIDzoirHlrZA+?= <r7@receiver.example>\r\n\
         Subject: Hello =?utf-8?B?5bGx55SwIDzoirHlrZA+?=\r\n\
         Message-ID: <{}@shop.example>\r\n\
         List-Id: Shop news <news.shop.example>\r\n\
         List-Unsubscribe: <https://shop.example/u/{unsubscribe}>,\r\n \
         <mailto:u+{unsubscribe}@shop.example>\r\n\
         List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
         X-Campaign: spring-A&B\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/alternative;\r\n boundary=\"=_",
        token(Purpose::MessageId)
    );
    assert!(message.starts_with(&head), "{message}\nexpected\n{head}");
    let parsed = parse(&message);
    assert_eq!(shape(&parsed, 0), "alternative(text/plain text/html)");
    assert_eq!(parsed.subject(), Some("Hello 山田 <花子>"));
    let url = format!("https://shop.example/u/{unsubscribe}");
    assert_eq!(
        parsed.body_text(0).as_deref(),
        Some(&*format!("Hello 山田 <花子>, r7@receiver.example\r\n{url}"))
    );
    assert_eq!(
        parsed.body_html(0).as_deref(),
        Some(&*format!(
            "<p>Hello 山田 &lt;花子&gt;, see <a href=\"{url}\">this</a></p>"
        ))
    );
    let reverse_path = template.reverse_path(row.view());
    let (local_part, domain) = reverse_path.split_once('@').expect("an address");
    assert_eq!(domain, "shop.example");
    assert_eq!(
        Token::verify_local_part(&secret(), local_part),
        Some((JobId::from(ID), 7))
    );
    assert_eq!(template.needs().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn the_same_bytes_on_every_attempt_and_others_for_others() {
    let bundle = usual(
        "[tracking]\nurl = \"https://t.shop.example/\"\nopens = true\nclicks = true",
        "{{ name }}",
        "<a href=\"https://shop.example/{{ code }}\">{{ name }}</a>",
    );
    let row = TestRow::new(3, "花子", "x");
    let first = compile(&bundle);
    let message = render(&first, &row).expect("renders");
    let _ = render(&first, &TestRow::new(4, "太郎", "y"));
    assert_eq!(render(&first, &row), Ok(message.clone()));
    let again = Bundle::clone(&bundle);
    assert_eq!(render(&compile(&again), &row), Ok(message.clone()));
    let mut other = bundle.clone();
    other.id = SubmissionId(1);
    assert_ne!(render(&compile(&other), &row), Ok(message.clone()));
    let foreign = Template::compile(&bundle, &Secret::new(&[0; 32])).expect("compiles");
    assert_ne!(render(&foreign, &row), Ok(message));
}

#[test]
fn shapes() {
    let png: &[u8] = b"\x89PNG\r\n\x1a\n";
    let inline = "[[content.attachment]]\nfile = \"a.png\"\ninline = \"logo\"\n";
    let attached = "[[content.attachment]]\nfile = \"b.pdf\"\nname = \"請求書.pdf\"\n";
    let text = "text = \"t.txt\"\n";
    let html = "html = \"h.html\"\n";
    let cases = [
        (text.to_owned(), "text/plain"),
        (html.to_owned(), "alternative(text/plain text/html)"),
        (format!("{text}{html}"), "alternative(text/plain text/html)"),
        (
            format!("{text}{attached}"),
            "mixed(text/plain application/pdf)",
        ),
        (
            format!("{html}{inline}"),
            "alternative(text/plain related(text/html image/png))",
        ),
        (
            format!("{text}{html}{attached}{inline}"),
            "mixed(alternative(text/plain related(text/html image/png)) application/pdf)",
        ),
        (format!("{text}{inline}"), "mixed(text/plain image/png)"),
    ];
    for (content, expected) in cases {
        let bundle = bundle(
            &format!("subject = \"s\"\n[content]\n{content}"),
            &[
                ("t.txt", b"hello {{ name }}"),
                (
                    "h.html",
                    b"<p>Hello {{ name }} <img src=\"cid:logo\" alt=\"Logo\"></p>",
                ),
                ("a.png", png),
                ("b.pdf", &[0; 1000]),
            ],
        );
        let message = render(&compile(&bundle), &TestRow::new(1, "H", "")).expect("renders");
        let parsed = parse(&message);
        assert_eq!(shape(&parsed, 0), expected, "{message}");
        for part in &parsed.parts {
            match part.attachment_name() {
                Some("請求書.pdf") => assert_eq!(part.contents(), [0; 1000]),
                Some("a.png") => {
                    assert_eq!(part.contents(), png);
                    assert_eq!(part.content_id(), Some("logo"));
                }
                other => assert_eq!(other, None),
            }
        }
        if !content.contains(text) {
            assert_eq!(parsed.body_text(0).as_deref(), Some("Hello H Logo"));
        }
    }
}

#[test]
fn hostile_rows() {
    let bundle = usual("", "{{ name }}", "<p>{{ name }}</p>");
    let template = compile(&bundle);
    let refused = [
        ("x\r\nBcc: v@x.test", "'\\r'"),
        ("x\nBcc: v@x.test", "'\\n'"),
        ("x\0", "'\\0'"),
        ("x\u{2028}y", "'\\u{2028}'"),
        ("x\u{85}y", "'\\u{85}'"),
    ];
    for (name, character) in refused {
        let error = render(&template, &TestRow::new(5, name, "")).expect_err("refused");
        assert_eq!(error.row, 5);
        let expected = format!(
            "row 5: job.toml line 5: to_name: To has the control character {character} at octet 1: a header field cannot hold it"
        );
        assert_eq!(error.to_string(), expected);
    }
    let long = "x".repeat(1 << 20);
    let error = render(&template, &TestRow::new(5, &long, "")).expect_err("refused");
    assert!(error.to_string().contains("octets"), "{error}");
    let allowed = [
        "{{ 7 * 7 }} {% for x in range(9) %}",
        "<script>alert('x')</script>",
        "=1+1",
        "=?utf-8?Q?=0D=0ABcc:_x?=",
        "--=_boundary",
        "'; DROP TABLE recipients",
        "{{ unsubscribe_url }}",
    ];
    for name in allowed {
        let message = render(&template, &TestRow::new(5, name, "")).expect("renders");
        let parsed = parse(&message);
        assert_eq!(shape(&parsed, 0), "alternative(text/plain text/html)");
        assert_eq!(parsed.body_text(0).as_deref(), Some(name));
        let expected = format!("Hello {name}");
        assert_eq!(parsed.subject(), Some(&*expected));
        let mut text = String::new();
        plain::of_html(&parsed.body_html(0).expect("html"), &mut text);
        assert_eq!(text.trim_end(), name);
    }
}

#[test]
fn a_megabyte_in_the_body_travels() {
    let bundle = usual("", "{{ code }}", "<p>{{ code }}</p>");
    let template = compile(&bundle);
    let long = "x".repeat(1 << 20);
    let message = render(&template, &TestRow::new(5, "n", &long)).expect("renders");
    assert_eq!(parse(&message).body_text(0).as_deref(), Some(&*long));
}

#[test]
fn templates_that_cannot_be_right() {
    let cases: [(&str, &str, &str); 9] = [
        (
            "Hi\n{{ nmae }}",
            "",
            "t.txt line 2: there is no field `nmae`; the recipients have email, name, code",
        ),
        ("", "<p>\n\n{{ name }</p>", "h.html line 3: syntax error: "),
        ("{% include 'x' %}", "", "t.txt line 1: syntax error: "),
        ("{% for x in y", "", "t.txt line 1: syntax error: "),
        ("{{ name|nofilter }}", "", ""),
        (
            "{{ name.first }}",
            "",
            "t.txt line 1: `name.first`: the fields of a row are texts, they have no `first`",
        ),
        (
            "{{ unsubscribe_url }}",
            "",
            "t.txt line 1: `unsubscribe_url` needs `unsubscribe` or `unsubscribe_mailto` in [list]",
        ),
        (
            "{{ debug() }}",
            "",
            "t.txt line 1: there is no field `debug`; the recipients have email, name, code",
        ),
        (
            "{% macro x() %}{% endmacro %}",
            "",
            "t.txt line 1: syntax error: ",
        ),
    ];
    for (text, html, expected) in cases {
        let bundle = usual("", text, html);
        match Template::compile(&bundle, &secret()) {
            Err(error) => assert!(
                error.to_string().starts_with(expected) && !expected.is_empty(),
                "{error}"
            ),
            // Filters are looked up when they are used.
            Ok(template) => {
                assert_eq!(expected, "", "{text}{html}");
                let error = render(&template, &TestRow::new(1, "n", "")).expect_err("refused");
                assert!(
                    error
                        .to_string()
                        .starts_with("row 1: t.txt line 1: unknown filter"),
                    "{error}"
                );
            }
        }
    }
    let subject = bundle(
        "subject = \"{{ nme }}\"\n[content]\ntext = \"t\"",
        &[("t", b"x")],
    );
    assert!(
        refusal(&subject).starts_with("job.toml line 4: subject: there is no field `nme`"),
        "{}",
        refusal(&subject)
    );
    let invalid = bundle(
        "subject = \"s\"\n[content]\ntext = \"t\"",
        &[("t", b"a\nb\xff")],
    );
    assert_eq!(refusal(&invalid), "t line 2: is not UTF-8");
    let missing = bundle("subject = \"s\"\n[content]\ntext = \"t\"", &[]);
    assert_eq!(refusal(&missing), "t: is not in the job");
    let mut verp = usual("", "", "");
    let prefix = "b".repeat(VERP_PREFIX_MAX + 1);
    let toml = String::from_utf8_lossy(&verp.files[0].1).replace("bounce+", &format!("{prefix}+"));
    verp.files[0].1 = Arc::from(toml.as_bytes());
    assert!(Template::compile(&verp, &secret()).is_err());
}

#[test]
fn what_never_ends_is_ended() {
    let endless = "{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}";
    let large = "{% set x = 'x' * 100000 %}{% for a in range(1000) %}{{ x }}{% endfor %}";
    for (text, expected) in [
        (
            endless,
            "row 2: t.txt line 1: takes more than 100000 steps: a loop is too long",
        ),
        (
            large,
            "row 2: t.txt line 1: renders more than 4194304 octets",
        ),
    ] {
        let template = compile(&usual("", text, "x"));
        let mut out = b"before".to_vec();
        let row = TestRow::new(2, "n", "");
        let error = template.render(row.view(), &mut out).expect_err("refused");
        assert_eq!(error.to_string(), expected);
        assert_eq!(out, b"before");
    }
}

#[test]
fn iso_2022_jp_messages() {
    let bundle = usual(
        "charset = \"iso-2022-jp\"",
        "{{ name }}様\n",
        "<p>{{ name }}様</p>",
    );
    let template = compile(&bundle);
    let message = render(&template, &TestRow::new(1, "山田ﾊﾅｺ", "")).expect("renders");
    assert!(message.contains("charset=ISO-2022-JP\r\nContent-Transfer-Encoding: 7bit\r\n"));
    let parsed = parse(&message);
    assert_eq!(parsed.subject(), Some("Hello 山田ハナコ"));
    assert_eq!(
        parsed.body_text(0).as_deref().map(str::trim_end),
        Some("山田ハナコ様")
    );
    let error = render(&template, &TestRow::new(1, "한국", "")).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("'한' (U+D55C) does not exist in ISO-2022-JP"),
        "{error}"
    );
}

#[test]
fn links_lead_over_the_tracking_host() {
    let bundle = usual(
        "[list]\nid = \"news.shop.example\"\nunsubscribe = \"https://shop.example/u/{token}\"\n[tracking]\nurl = \"https://t.shop.example/r?x=1\"\nopens = true\nclicks = true",
        "x",
        "<body><a href=\"https://shop.example/?a=1&amp;b={{ name }}\">a</a><a href='{{ unsubscribe_url }}'>b</a><a href=mailto:x@y.test>c</a><A HREF=http://shop.example/z >d</A></body>",
    );
    let message = render(&compile(&bundle), &TestRow::new(6, "é", "")).expect("renders");
    let html = parse(&message).body_html(0).expect("html").into_owned();
    let token = |purpose, target: &str| {
        Token::sign_with(&secret(), purpose, JobId::from(ID), 6, target.as_bytes())
    };
    let expected = format!(
        "<body><a href=\"https://t.shop.example/r?x=1&amp;c={}&amp;u=https%3A%2F%2Fshop.example%2F%3Fa%3D1%26b%3D%C3%A9\">a</a><a href='https://shop.example/u/{}'>b</a><a href=mailto:x@y.test>c</a><A HREF=\"https://t.shop.example/r?x=1&amp;c={}&amp;u=http%3A%2F%2Fshop.example%2Fz\" >d</A><img src=\"https://t.shop.example/r?x=1&amp;o={}\" width=\"1\" height=\"1\" alt=\"\"></body>",
        token(Purpose::Click, "https://shop.example/?a=1&b=é"),
        token(Purpose::Unsubscribe, ""),
        token(Purpose::Click, "http://shop.example/z"),
        token(Purpose::Open, ""),
    );
    assert_eq!(html, expected);
}

#[test]
fn variants_are_split_by_share_and_stable() {
    let bundle = bundle(
        "subject = \"base\"\n[content]\ntext = \"t\"\n[[variant]]\nname = \"a\"\nshare = 3\n[[variant]]\nname = \"b\"\nshare = 1\nsubject = \"other {{ variant }}\"\ntext = \"u\"\n",
        &[("t", b"text of {{ variant }}"), ("u", b"other text")],
    );
    let template = compile(&bundle);
    let mut later = bundle.clone();
    later.id = SubmissionId(77);
    let later = compile(&later);
    let mut of_b = 0;
    for number in 0..4000 {
        let row = TestRow::new(number, "n", "");
        let variant = template.variant(row.view()).expect("one of two");
        assert_eq!(later.variant(row.view()), Some(variant));
        if number < 20 {
            let message = render(&template, &row).expect("renders");
            let expected = match variant {
                "a" => (Some("base"), Some("text of a".into())),
                _ => (Some("other b"), Some("other text".into())),
            };
            let parsed = parse(&message);
            let text = parsed.body_text(0).map(|text| text.trim_end().to_owned());
            assert_eq!((parsed.subject(), text), expected);
        }
        of_b += usize::from(variant == "b");
    }
    // A quarter of 4000, give or take five standard deviations.
    assert!((863..1137).contains(&of_b), "{of_b}");
}

const MESSAGE: &str = "Received: by relay.test\r\n\
From: someone@else.test\r\n\
To: \"{{ name }}\" <{{ email }}>\r\n\
Subject: お知らせ {{ name }}\r\n\
X-Folded: one\r\n\ttwo\r\n\
Message-ID: <static@else.test>\r\n\
Content-Type: multipart/mixed; boundary=\"b1\"\r\n\
\r\n\
preamble\r\n\
--b1\r\n\
Content-Type: multipart/alternative; boundary=\"b2\"\r\n\
\r\n\
--b2\r\n\
Content-Type: text/plain; charset=utf-8; format=flowed\r\n\
Content-Transfer-Encoding: quoted-printable\r\n\
\r\n\
Hello {{ name }=\r\n\
}, =E3=81=82\r\n\
--b2\r\n\
Content-Type: text/html\r\n\
\r\n\
<p>{{ name }}</p>\r\n\
--b2--\r\n\
--b1\r\n\
Content-Type: text/plain; name=\"a.txt\"\r\n\
Content-Disposition: attachment; filename=\"a.txt\"\r\n\
\r\n\
{{ stays }}\r\n\
--b1--\r\n";

#[test]
fn whole_messages() {
    let toml = "[content]\nmessage = \"m.eml\"\n";
    for eml in [MESSAGE.to_owned(), MESSAGE.replace("\r\n", "\n")] {
        let bundle = bundle(toml, &[("m.eml", eml.as_bytes())]);
        let template = compile(&bundle);
        for name in ["花子 <x>", "\r\n--b2\r\n", "plain"] {
            let message = match render(&template, &TestRow::new(9, name, "")) {
                Ok(message) => message,
                Err(error) => {
                    assert!(name.contains('\r'), "{error}");
                    assert_eq!(error.cause.line, 3, "{error}");
                    continue;
                }
            };
            let parsed = parse(&message);
            assert_eq!(
                shape(&parsed, 0),
                "mixed(alternative(text/plain text/html) text/plain)"
            );
            assert_eq!(
                parsed
                    .from()
                    .and_then(|f| f.first())
                    .and_then(|f| f.address()),
                Some("news@shop.example")
            );
            let to = parsed.to().and_then(|to| to.first()).expect("one");
            assert_eq!(
                (to.name(), to.address()),
                (Some(name), Some("r9@receiver.example"))
            );
            assert_eq!(parsed.subject(), Some(&*format!("お知らせ {name}")));
            assert_eq!(
                parsed.body_text(0).as_deref().map(str::trim_end),
                Some(&*format!("Hello {name}, あ"))
            );
            assert!(message.contains("X-Folded: one\r\n\ttwo\r\n"), "{message}");
            assert!(message.contains("format=\"flowed\""));
            assert!(message.contains("{{ stays }}"));
            assert!(!message.contains("else.test") && !message.contains("relay.test"));
            assert!(!message.contains("b1\r\n"), "boundaries are ours");
            for field in [
                "Message-ID:",
                "Date:",
                "From:",
                "To:",
                "Subject:",
                "MIME-Version:",
            ] {
                assert_eq!(
                    message.matches(&format!("\r\n{field}")).count()
                        + usize::from(message.starts_with(field)),
                    1,
                    "{field}"
                );
            }
        }
    }
    let refused: [(&str, &str); 7] = [
        (
            "X: y\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-ID: a\rX: b\n\nx\n--b--\n",
            "m.eml line 5: Content-ID: must be ASCII",
        ),
        (
            "Subject: {{ x }}\n\nx\n",
            "m.eml line 1: there is no field `x`",
        ),
        (
            "Subject: x\n\na\n{{ x }}\n",
            "m.eml line 4: there is no field `x`",
        ),
        (
            "To: {{ name }} <a@b.test>, x@y.test\n\nx\n",
            "m.eml line 1: To: beside placeholders",
        ),
        (
            "X-A: \u{1}\n\nx\n",
            "m.eml line 1: X-A: has a control character",
        ),
        (
            "Content-Type: multipart/signed; boundary=b\n\n--b\n\nx\n--b--\n",
            "m.eml line 1: is signed or encrypted",
        ),
        ("", "m.eml: is no message"),
    ];
    for (eml, expected) in refused {
        let shown = refusal(&bundle(toml, &[("m.eml", eml.as_bytes())]));
        assert!(shown.starts_with(expected), "{shown}");
    }
}

proptest! {
    #[test]
    fn any_row_becomes_a_canonical_message_or_is_refused(
        name in "\\PC{0,20}|([a-z ]|\r|\n|\\PC|x{1,1200}){0,10}",
        code in "(\\PC|\r|\n|\0|[a-z]{1,1500}){0,30}",
    ) {
        thread_local! {
            static TEMPLATE: Template = compile(&usual("", "{{ name }}\n{{ code }}", "<p>{{ code }}</p>{{ name }}"));
        }
        TEMPLATE.with(|template| {
            let row = TestRow::new(1, &name, &code);
            if let Ok(message) = render(template, &row) {
                let parsed = parse(&message);
                assert_eq!(shape(&parsed, 0), "alternative(text/plain text/html)");
                let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
                let text = parsed.body_text(0).unwrap_or_default();
                let mut expected = lines(&name);
                let _ = write!(expected, "\n{}", lines(&code));
                // The last line end belongs to the boundary; readers do not keep NUL.
                assert_eq!(lines(&text).trim_end_matches('\n').replace('\0', ""), expected.trim_end_matches('\n').replace('\0', ""));
            } else {
                assert!(name.chars().any(char::is_control) || name.len() > 4000 || name.contains(['\u{2028}', '\u{2029}']));
            }
        });
    }

    #[test]
    fn any_message_file_is_refused_or_compiles(eml in "(From: |To: |Content-Type: (multipart/mixed; boundary=b|text/html)|--b|--b--|\\{\\{ name \\}\\}|\r\n|\n|\\PC|<|>| ){0,40}") {
        let bundle = bundle("[content]\nmessage = \"m.eml\"\n", &[("m.eml", eml.as_bytes())]);
        if let Ok(template) = Template::compile(&bundle, &secret()) {
            let _ = render(&template, &TestRow::new(1, "n", "c"));
        }
    }
}
