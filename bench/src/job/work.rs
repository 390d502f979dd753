//! The job that is sent: rows, template, archive, all from a seed.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use hikyaku::job::archive::{write_end, write_header, write_padding};

/// From whom.
pub(super) const SENDER: &str = "sender.test";
/// Reverse-paths are `bounce+TOKEN@` this.
pub(super) const BOUNCES: &str = "bounces.sender.test";
/// What stands before the token of an unsubscription address.
pub(super) const UNSUBSCRIBE: &str = "https://sender.test/unsubscribe/";

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) rows: u64,
    /// Rows behind them that repeat an address.
    pub(super) duplicates: u64,
    pub(super) domains: u64,
    /// Text and HTML template.
    pub(super) template_bytes: u64,
    pub(super) seed: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Made {
    /// Bytes of all values of all rows, addresses included.
    pub(super) row_bytes: u64,
    /// Bytes of `job.toml` and the templates.
    pub(super) bundle_bytes: u64,
}

/// A row's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) email: String,
    pub(super) name: &'static str,
    pub(super) city: &'static str,
    /// Of this row alone.
    pub(super) code: String,
}

const NAMES: [&str; 8] = [
    "Ann",
    "Bert",
    "花子",
    "Chloé",
    "山田 太郎",
    "Dora \"D\" Quint",
    "Łukasz",
    "<b>Eve</b> & co",
];
const CITIES: [&str; 5] = ["Edo", "Kyōto", "Osaka", "大阪市, 北区", "Nagoya"];

impl Work {
    /// Row `number`, from 0.
    pub(super) fn row(&self, number: u64) -> Row {
        let mixed = (number ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pick = |from: u32, len: usize| (mixed >> from) as usize % len;
        Row {
            email: self.email(number),
            name: NAMES[pick(20, NAMES.len())],
            city: CITIES[pick(40, CITIES.len())],
            code: self.code(number),
        }
    }

    pub(super) fn email(&self, number: u64) -> String {
        format!("u{number}@d{}.test", number % self.domains)
    }

    /// The row of an address.
    pub(super) fn number(&self, email: &str) -> Option<u64> {
        let (local, _) = email.split_once('@')?;
        let number: u64 = local.strip_prefix('u')?.parse().ok()?;
        (number < self.rows && self.email(number) == email).then_some(number)
    }

    pub(super) fn code(&self, number: u64) -> String {
        let mixed = (number.wrapping_add(self.seed)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        format!("c{:x}x{number:x}", mixed >> 32)
    }

    /// The files of the job, without its rows.
    pub(super) fn files(&self) -> [(&'static str, String); 3] {
        let document = format!(
            "name = \"bench\"\nfrom = \"Bench <news@{SENDER}>\"\nreverse_path = \"bounce+{{token}}@{BOUNCES}\"\n\
             subject = \"For {{{{ name }}}} [{{{{ code }}}}]\"\n\n[recipients]\nfile = \"rows.csv\"\n\n\
             [content]\ntext = \"body.txt\"\nhtml = \"body.html\"\n\n\
             [list]\nid = \"bench.{SENDER}\"\nunsubscribe = \"{UNSUBSCRIBE}{{token}}\"\n"
        );
        let (text, html) = self.templates();
        [
            ("job.toml", document),
            ("body.txt", text),
            ("body.html", html),
        ]
    }

    /// Writes the archive.
    pub(super) fn write(&self, path: &Path) -> io::Result<Made> {
        let files = self.files();
        let mut made = Made {
            bundle_bytes: files.iter().map(|(_, content)| content.len() as u64).sum(),
            ..Made::default()
        };
        let mut out = BufWriter::new(File::create(path)?);
        for (name, content) in &files {
            let mut part = Vec::new();
            write_header(&mut part, name, content.len() as u64);
            part.extend_from_slice(content.as_bytes());
            write_padding(&mut part, content.len() as u64);
            out.write_all(&part)?;
        }
        // Written twice: the header says how long they are.
        let mut line = String::new();
        let mut size = HEADER.len() as u64;
        for number in 0..self.rows {
            size += self.line(number, &mut line, &mut made);
        }
        for number in 0..self.duplicates {
            size += self.repeat(number, &mut line);
        }
        let mut part = Vec::new();
        write_header(&mut part, "rows.csv", size);
        out.write_all(&part)?;
        out.write_all(HEADER.as_bytes())?;
        let mut again = Made::default();
        for number in 0..self.rows {
            self.line(number, &mut line, &mut again);
            out.write_all(line.as_bytes())?;
        }
        for number in 0..self.duplicates {
            self.repeat(number, &mut line);
            out.write_all(line.as_bytes())?;
        }
        part.clear();
        write_padding(&mut part, size);
        write_end(&mut part);
        out.write_all(&part)?;
        out.flush()?;
        Ok(made)
    }

    fn line(&self, number: u64, line: &mut String, made: &mut Made) -> u64 {
        let row = self.row(number);
        made.row_bytes +=
            (row.email.len() + row.name.len() + row.city.len() + row.code.len()) as u64;
        line.clear();
        let quoted = |text: &str| text.replace('"', "\"\"");
        // Writing to a String cannot fail.
        let _ = writeln!(
            line,
            "{},\"{}\",\"{}\",{}",
            row.email,
            quoted(row.name),
            quoted(row.city),
            row.code
        );
        line.len() as u64
    }

    /// A row that must not become a message: its code is none.
    fn repeat(&self, number: u64, line: &mut String) -> u64 {
        line.clear();
        let email = self.email(number % self.rows);
        let (local, domain) = email.split_once('@').unwrap_or_default();
        let domain = domain.to_ascii_uppercase();
        let _ = writeln!(line, "{local}@{domain},repeated,nowhere,none");
        line.len() as u64
    }

    /// A quarter text, three quarters HTML.
    fn templates(&self) -> (String, String) {
        let mut text = "Dear {{ name }} of {{ city }},\n\nCode {{ code }}\n\n".to_owned();
        let mut html = "<html><head><title>{{ name }}</title></head><body>\n<p>Dear {{ name }} of {{ city }},</p>\n\
             <p>\nCode {{ code }}\n</p>\n"
            .to_owned();
        let filler = "couriers ran Edo's post on foot, in relays, over five roads.";
        let quarter = usize::try_from(self.template_bytes / 4).unwrap_or(usize::MAX);
        let mut line = 0;
        while text.len() < quarter {
            let _ = writeln!(text, "{line}: {filler}");
            line += 1;
        }
        while html.len() < quarter * 3 {
            let _ = writeln!(html, "<p style=\"margin:0\">{line}: {filler}</p>");
            line += 1;
        }
        text += "\nLeave: {{ unsubscribe_url }}\n";
        html += "<p><a href=\"{{ unsubscribe_url }}\">Leave</a></p></body></html>\n";
        (text, html)
    }
}

/// Of the rows.
pub(super) const COLUMNS: [&str; 4] = ["email", "name", "city", "code"];
const HEADER: &str = "email,name,city,code\n";
