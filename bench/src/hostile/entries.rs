//! What is put into `new/`: every entry follows from the seed and its number, so that a million of
//! them need no memory to be checked against.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, mkfifoat};

/// What an entry is, and with that what must become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message file.
    Eml,
    /// Batch SMTP, so many messages of one recipient each.
    Bsmtp(u8),
    /// Two files with one key and one content: one is taken, the other answered.
    SameKey,
    /// Two files with one key and different content: one is taken, the other refused.
    OtherKey,
    /// A valid message file that its producer still writes to: refused, or taken as it was.
    Growing,
    /// To be refused with this code.
    Bad(Bad),
}

/// Entries of which nothing may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Fifo,
    Socket,
    Directory,
    LinkToFile,
    LinkToDirectory,
    LinkToNothing,
    LinkToPasswd,
    HardLink,
    /// Sparse, above the limit of a file.
    Huge,
    /// A header, then a hole of a gigabyte.
    Zeros,
    Unreadable,
    /// By its number in [`NAMES`].
    Name(usize),
    /// By its number in [`TEXTS`].
    Text(usize),
}

/// Names that no drop file may have, behind the number that tells them apart.
const NAMES: &[&[u8]] = &[
    b" blank.eml",
    b"\nline.eml",
    b"\xff\xfe.eml",
    b"\x1b[31m.eml",
    b".txt",
    b"",
    b"\\..\\x.eml",
    b"-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.eml",
];

/// Contents: extension, text, code. `@` stands for a valid envelope of a message file, `%` for the
/// start of a valid transaction up to DATA.
const TEXTS: &[(&str, &str, &str)] = &[
    ("eml", "", "empty"),
    (
        "eml",
        "x-receiver: v@d.test\r\nFrom: a\r\n\r\nhi\r\n",
        "envelope",
    ),
    (
        "eml",
        "x-sender: n@s.test\r\nFrom: a\r\n\r\nhi\r\n",
        "envelope",
    ),
    ("eml", "From: a\r\nTo: v@d.test\r\n\r\nhi\r\n", "envelope"),
    (
        "eml",
        "x-sender: n@s.test\r\nx-receiver: v@@d\r\nFrom: a\r\n\r\nhi\r\n",
        "address",
    ),
    (
        "eml",
        "x-sender: n@s.test\r\nx-receiver: <@a,@b:c@d>\r\nFrom: a\r\n\r\nhi\r\n",
        "address",
    ),
    (
        "eml",
        "x-sender: n@s.test\r\nx-receiver: v@d.test\r\n",
        "truncated",
    ),
    (
        "eml",
        "@x-idempotency-key: a b\r\nFrom: a\r\n\r\nhi\r\n",
        "envelope",
    ),
    ("eml", "@From: a\r\n\r\nh\0i\r\n", "nul"),
    ("eml", "@From: a\r\n\r\nh\ri\r\n", "bare-cr"),
    ("eml", "@From: a\r\n\r\nLONG\r\n", "line-length"),
    ("eml", "@Subject: a\r\n\r\nhi\r\n", "header"),
    ("eml", "@From: a\r\nno field\r\n\r\nhi\r\n", "header"),
    ("bsmtp", "", "empty"),
    ("bsmtp", "QUIT\r\n", "empty"),
    ("bsmtp", "RCPT TO:<v@d.test>\r\n", "command"),
    ("bsmtp", "MAIL FROM n@s.test\r\n", "command"),
    ("bsmtp", "MAIL FROM:<n@@s.test>\r\n", "address"),
    ("bsmtp", "MAIL FROM:<n@s.test> BODY=9BIT\r\n", "parameter"),
    (
        "bsmtp",
        "MAIL FROM:<n@s.test>\r\nMAIL FROM:<n@s.test>\r\n",
        "command",
    ),
    ("bsmtp", "MAIL FROM:<n@s.test>\r\nDATA\r\n", "command"),
    (
        "bsmtp",
        "MAIL FROM:<n@s.test>\r\nRCPT TO:v@d.test\r\n",
        "command",
    ),
    (
        "bsmtp",
        "MAIL FROM:<n@s.test>\r\nRCPT TO:<v@d.test> ORCPT\r\n",
        "parameter",
    ),
    (
        "bsmtp",
        "MAIL FROM:<n@s.test>\r\nRCPT TO:<v@d.test>\r\nDATA now\r\n",
        "command",
    ),
    (
        "bsmtp",
        "MAIL FROM:<n@s.test>\r\nRCPT TO:<v@d.test>\r\nQUIT\r\n",
        "command",
    ),
    ("bsmtp", "%From: a\r\n\r\nhi\r\n", "truncated"),
    (
        "bsmtp",
        "%From: a\r\n\r\nhi\r\n.\r\nQUIT\r\nNOOP\r\n",
        "command",
    ),
    (
        "bsmtp",
        "%From: a\r\n\r\nhi\r\n.\r\nMAIL FROM:<n@s.test> XKEY=k\r\n",
        "key",
    ),
    ("bsmtp", "%From: a\r\n\r\nhi\n.\r\n", "dot-ambiguous"),
    ("bsmtp", "EHLO x\r\nMAIL FROM:<n@s.test>\n", "line-end"),
    ("bsmtp", "EHLO x\r\nVRFY v\r\n", "command"),
    ("bsmtp", "XDFN x=1\r\n", "command"),
];

impl Bad {
    /// The code of its refusal.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::HardLink => "hard-link",
            Self::Huge => "file-size",
            Self::Zeros => "nul",
            Self::Unreadable => "unreadable",
            Self::Name(_) => "name",
            Self::Text(index) => TEXTS[index].2,
            _ => "file-type",
        }
    }
}

/// The whole set.
#[derive(Debug, Clone)]
pub(super) struct Entries {
    pub(super) seed: u64,
    pub(super) count: u64,
    /// Percent.
    pub(super) hostile: u64,
    pub(super) is_root: bool,
    pub(super) dir: PathBuf,
}

/// splitmix64, of one number.
pub(super) fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Entries {
    pub(super) fn kind(&self, number: u64) -> Kind {
        let chance = mix(self.seed, number);
        let (choice, detail) = (chance >> 32, chance as u32 as usize);
        if choice % 100 >= self.hostile {
            return if self.hostile > 0 && detail.is_multiple_of(4) {
                Kind::Bsmtp(1 + (detail / 4 % 3) as u8)
            } else {
                Kind::Eml
            };
        }
        let bad = match detail % 40 {
            0 | 1 => return Kind::SameKey,
            2 | 3 => return Kind::OtherKey,
            4 => return Kind::Growing,
            5 => Bad::Fifo,
            6 => Bad::Socket,
            7 => Bad::Directory,
            8 => Bad::LinkToFile,
            9 => Bad::LinkToDirectory,
            10 => Bad::LinkToNothing,
            11 => Bad::LinkToPasswd,
            12 => Bad::HardLink,
            13 => Bad::Huge,
            14 => Bad::Zeros,
            15 if !self.is_root => Bad::Unreadable,
            16..22 => Bad::Name(detail / 40 % NAMES.len()),
            _ => Bad::Text(detail / 40 % TEXTS.len()),
        };
        Kind::Bad(bad)
    }

    /// The name in `new/`, and of the second file where there are two.
    pub(super) fn name(&self, number: u64, second: bool) -> OsString {
        let stem = format!("e{number:08}{}", if second { "b" } else { "" });
        match self.kind(number) {
            Kind::Bad(Bad::Name(index)) => {
                let mut name = stem.into_bytes();
                name.extend_from_slice(NAMES[index]);
                OsStr::from_bytes(&name).to_owned()
            }
            Kind::Bad(Bad::Text(index)) => format!("{stem}.{}", TEXTS[index].0).into(),
            Kind::Bsmtp(_) => format!("{stem}.bsmtp").into(),
            _ => format!("{stem}.eml").into(),
        }
    }

    /// Recipients that may have a copy, and how many of them must.
    pub(super) fn recipients(&self, number: u64) -> (u8, u8) {
        match self.kind(number) {
            Kind::Eml | Kind::SameKey => (1, 1),
            Kind::Bsmtp(count) => (count, count),
            Kind::OtherKey => (2, 1),
            Kind::Growing => (1, 0),
            Kind::Bad(_) => (0, 0),
        }
    }

    pub(super) fn address(number: u64, which: u8) -> String {
        format!("v{number}.{which}@d{}.test", number % 50)
    }

    /// Number and place of a recipient that [`Self::address`] made.
    pub(super) fn parse(address: &str) -> Option<(u64, u8)> {
        let (number, rest) = address.strip_prefix('v')?.split_once('.')?;
        let which = rest.split_once('@')?.0;
        let (number, which) = (number.parse().ok()?, which.parse().ok()?);
        (Self::address(number, which) == address).then_some((number, which))
    }

    /// The content as a receiver gets it, but for a growing one.
    pub(super) fn content(number: u64, which: u8) -> String {
        format!(
            "From: News <n@s.test>\r\nSubject: {number}\r\nMessage-ID: <{number}.{which}@s.test>\r\n\r\n\
             .one dot\r\n..two\r\n{:032x}\r\n",
            mix(number, u64::from(which))
        )
    }

    /// Puts entry `number` into `new/`. The answer is a file that is still being written.
    pub(super) fn put(&self, number: u64, second: bool) -> io::Result<Option<File>> {
        let made = self.dir.join("drop/tmp").join(format!("t{number}{second}"));
        let mut growing = None;
        let envelope = |which| {
            format!(
                "x-sender: n@s.test\r\nx-receiver: {}\r\n",
                Self::address(number, which)
            )
        };
        match self.kind(number) {
            Kind::Eml => fs::write(&made, envelope(0) + &Self::content(number, 0))?,
            Kind::Bsmtp(count) => {
                let mut text = "EHLO out.test\r\n".to_owned();
                for which in 0..count {
                    text += &transaction(number, which);
                    for line in Self::content(number, which).split_inclusive('\n') {
                        text += if line.starts_with('.') { "." } else { "" };
                        text += line;
                    }
                    text += ".\r\n";
                }
                fs::write(&made, text)?;
            }
            Kind::SameKey => {
                let text = format!(
                    "x-idempotency-key: k{number}\r\n{}{}",
                    envelope(0),
                    Self::content(number, 0)
                );
                fs::write(&made, text)?;
            }
            Kind::OtherKey => {
                let which = u8::from(second);
                let text = format!(
                    "X-Idempotency-Key: k{number}\r\n{}{}",
                    envelope(which),
                    Self::content(number, which)
                );
                fs::write(&made, text)?;
            }
            Kind::Growing => {
                let mut file = File::create(&made)?;
                file.write_all((envelope(0) + &Self::content(number, 0)).as_bytes())?;
                growing = Some(file);
            }
            Kind::Bad(bad) => self.make_bad(bad, number, &made)?,
        }
        fs::rename(
            &made,
            self.dir.join("drop/new").join(self.name(number, second)),
        )?;
        Ok(growing)
    }

    fn make_bad(&self, bad: Bad, number: u64, made: &Path) -> io::Result<()> {
        let victims = self.dir.join("victims");
        match bad {
            Bad::Fifo => mkfifoat(CWD, made, Mode::from_bits_retain(0o622))?,
            Bad::Socket => drop(UnixListener::bind(made)?),
            Bad::Directory => {
                fs::create_dir(made)?;
                fs::write(made.join("inside.eml"), "x")?;
            }
            Bad::LinkToFile => symlink(victims.join("valid.eml"), made)?,
            Bad::LinkToDirectory => symlink(&victims, made)?,
            Bad::LinkToNothing => symlink("nothing-there", made)?,
            Bad::LinkToPasswd => symlink("/etc/passwd", made)?,
            Bad::HardLink => {
                // A file system has a limit of links to one file.
                let victim = victims.join(format!("linked{}", number % 64));
                fs::hard_link(victim, made)?;
            }
            Bad::Huge => File::create(made)?.set_len(17 << 30)?,
            Bad::Zeros => {
                let text = format!(
                    "x-sender: n@s.test\r\nx-receiver: {}\r\nFrom: a\r\n\r\n",
                    Self::address(number, 0)
                );
                fs::write(made, text)?;
                File::options().write(true).open(made)?.set_len(1 << 30)?;
            }
            Bad::Unreadable => {
                fs::write(made, "x")?;
                fs::set_permissions(made, fs::Permissions::from_mode(0o000))?;
            }
            Bad::Name(_) => fs::write(made, Self::content(number, 0))?,
            Bad::Text(index) => {
                let envelope = format!(
                    "x-sender: n@s.test\r\nx-receiver: {}\r\n",
                    Self::address(number, 0)
                );
                let text = match TEXTS[index].1.as_bytes() {
                    [b'@', ..] => envelope + &TEXTS[index].1[1..],
                    [b'%', ..] => transaction(number, 0) + &TEXTS[index].1[1..],
                    _ => TEXTS[index].1.to_owned(),
                };
                fs::write(made, text.replace("LONG", &"x".repeat(999)))?;
            }
        }
        Ok(())
    }
}

fn transaction(number: u64, which: u8) -> String {
    format!(
        "MAIL FROM:<n@s.test>\r\nRCPT TO:<{}>\r\nDATA\r\n",
        Entries::address(number, which)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikyaku::ingest::{Format, Limits, Parser};
    use std::sync::Arc;

    #[test]
    fn texts_are_refused_with_the_code_they_stand_for_and_valid_ones_are_not() {
        let tmp = tempfile::tempdir().unwrap();
        for part in ["drop", "drop/tmp", "drop/new", "victims"] {
            fs::create_dir(tmp.path().join(part)).unwrap();
        }
        for index in 0..64 {
            fs::write(tmp.path().join(format!("victims/linked{index}")), "x").unwrap();
        }
        let entries = Entries {
            seed: 3,
            count: 3000,
            hostile: 60,
            is_root: true,
            dir: tmp.path().into(),
        };
        let mut seen = std::collections::HashSet::new();
        for number in 0..entries.count {
            let kind = entries.kind(number);
            if let Kind::Bad(bad) = kind {
                seen.insert(format!("{bad:?}"));
            }
            let code = match kind {
                Kind::Bad(Bad::Text(index)) => Some(TEXTS[index].2),
                Kind::Bad(_) => continue,
                _ => None,
            };
            entries.put(number, false).unwrap();
            let name = entries.name(number, false).into_string().unwrap();
            let bytes = fs::read(tmp.path().join("drop/new").join(&name)).unwrap();
            let mut parser = Parser::new(Format::of_name(&name).unwrap(), Limits::default());
            let mut out = Vec::new();
            let result = parser
                .feed(&Arc::new(bytes), &mut out)
                .and_then(|()| parser.finish(&mut out));
            assert_eq!(result.err().map(|refusal| refusal.code), code, "{kind:?}");
            for (which, message) in (0..).zip(&out).filter(|_| code.is_none()) {
                assert_eq!(
                    message.content.as_slice(),
                    Entries::content(number, which).as_bytes()
                );
            }
        }
        assert_eq!(
            seen.len(),
            10 + NAMES.len() + TEXTS.len(),
            "every kind turns up"
        );
        assert_eq!(Entries::parse("v12.1@d12.test"), Some((12, 1)));
        assert_eq!(Entries::parse("v12.1@d13.test"), None);
    }
}
