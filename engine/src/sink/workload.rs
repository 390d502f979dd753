//! The canonical messages that benches and the demo send: a pure function of a few numbers.
//!
//! Equal parameters give equal bytes on every machine, and [`Workload::checksum`] says so: print it
//! beside every figure, since the same number means the same work. Each message has a Message-ID and
//! an `X-Hikyaku-Seq` of its own, by which [`super::Sink`] finds duplicates. All domains lie under
//! `.test` (RFC 6761), so that a mistake in a route cannot reach anybody.
//!
//! Messages are written as drop files, BSMTP with many or one `.eml` each, under a temporary name and
//! then renamed. Only the file system can fail.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// What to send. The fields are all that decides the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Decides the text, the order of domains and the Message-IDs.
    pub seed: u64,
    /// How many messages.
    pub messages: u64,
    /// Bytes of one message on the wire: header and body with CRLFs, without the final dot. Less than
    /// the shortest possible message (some 500 bytes) gives that.
    pub size: usize,
    /// Recipient domains, at least one.
    pub domains: u32,
    /// How recipients spread over them.
    pub mix: Mix,
    /// Recipients of each message, at least one.
    pub recipients: u32,
}

/// How recipients spread over domains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Each domain gets the same number, neighbours in turn.
    Equal,
    /// Shares of a consumer list ([`REAL_SHARES`]); domains beyond the table share its rest.
    Real,
}

/// Percent of addresses by domain, and what is left for all others: store orders of one American shop
/// (DNA Lounge), published by its owner (J. Zawinski, December 2025). One shop's customers, no truth
/// about any other list: an assumption, written down. The figures are facts and free to use; the
/// names get `.test` behind them.
pub const REAL_SHARES: [(&str, f64); 10] = [
    ("gmail.com", 73.0),
    ("yahoo.com", 8.5),
    ("icloud.com", 7.1),
    ("hotmail.com", 2.6),
    ("outlook.com", 0.7),
    ("aol.com", 0.6),
    ("comcast.net", 0.5),
    ("me.com", 0.5),
    ("sbcglobal.net", 0.4),
    ("live.com", 0.3),
];

impl Workload {
    /// The one that figures are quoted for: 100,000 messages of 4 KiB to 100 domains in equal shares.
    #[must_use]
    pub const fn canonical(seed: u64) -> Self {
        Self {
            seed,
            messages: 100_000,
            size: 4096,
            domains: 100,
            mix: Mix::Equal,
            recipients: 1,
        }
    }

    /// A generator of its messages.
    #[must_use]
    pub fn generator(&self) -> Generator {
        Generator::new(self.clone())
    }

    /// A number that stands for all parameters and the bytes they give. It reads 256 messages spread
    /// over the workload, so it costs a millisecond for any size of list.
    #[must_use]
    pub fn checksum(&self) -> u64 {
        let generator = self.generator();
        let mut hash = Xxh3::new();
        let Self {
            seed,
            messages,
            size,
            domains,
            mix,
            recipients,
        } = self;
        let mix = u64::from(*mix == Mix::Real);
        for number in [
            *seed,
            *messages,
            *size as u64,
            u64::from(*domains),
            mix,
            u64::from(*recipients),
        ] {
            hash.update(&number.to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(self.size + 512);
        for step in 0..self.messages.min(256) {
            bytes.clear();
            let number = u128::from(self.messages - 1) * u128::from(step) / 255;
            generator.bsmtp(
                u64::try_from(number).unwrap_or(0).min(self.messages - 1),
                None,
                &mut bytes,
            );
            hash.update(&bytes);
        }
        hash.digest()
    }

    /// Writes the whole workload into `drop`, `per_file` messages to a file; one to a file is `.eml`,
    /// more are `.bsmtp`. Returns files and bytes written.
    ///
    /// # Errors
    ///
    /// Of the file system; files that were renamed already stay.
    pub fn write_drop(&self, drop: &Path, per_file: u64, sync: bool) -> io::Result<Written> {
        let mut generator = self.generator();
        let mut written = Written::default();
        let mut from = 0;
        while from < self.messages {
            let to = self.messages.min(from.saturating_add(per_file.max(1)));
            written += generator.write_file(drop, from..to, None, sync)?;
            from = to;
        }
        Ok(written)
    }
}

/// What was put into a drop directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Files.
    pub files: u64,
    /// Bytes in them: messages, envelopes and final dots.
    pub bytes: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// Makes the messages of a [`Workload`], any of them in any order.
#[derive(Debug)]
pub struct Generator {
    work: Workload,
    domains: Vec<Box<[u8]>>,
    /// For [`Mix::Real`]: upper bounds of the shares on 0..2^32, one per domain.
    bounds: Vec<u64>,
    /// For [`Mix::Equal`]: coprime to the number of domains, so each has its turn.
    stride: u64,
    message_id_domain: Box<[u8]>,
    /// Whole lines of text.
    text: Vec<u8>,
    file: Vec<u8>,
}

/// Characters of a line of text, without CRLF.
const LINE: usize = 76;
/// Whatever the number: fields of fixed width make messages of equal size.
const DIGITS: usize = 12;
const REVERSE_PATH: &[u8] = b"news@sender.test";

impl Generator {
    fn new(mut work: Workload) -> Self {
        work.domains = work.domains.max(1);
        work.recipients = work.recipients.max(1);
        let count = u64::from(work.domains);
        let width = (count - 1).to_string().len().max(3);
        let plain = |index: u64| {
            format!("d{index:0width$}.test")
                .into_bytes()
                .into_boxed_slice()
        };
        let (domains, bounds) = match work.mix {
            Mix::Equal => ((0..count).map(plain).collect(), Vec::new()),
            Mix::Real => real_domains(count, plain),
        };
        let stride = (count * 618 / 1000 + 1..)
            .find(|&s| gcd(s, count) == 1)
            .unwrap_or(1);
        let message_id_domain = format!(".{:016x}@sender.test", work.seed)
            .into_bytes()
            .into_boxed_slice();
        let text = text(work.seed, work.size);
        Self {
            work,
            domains,
            bounds,
            stride,
            message_id_domain,
            text,
            file: Vec::new(),
        }
    }

    /// The workload it makes.
    #[must_use]
    pub const fn workload(&self) -> &Workload {
        &self.work
    }

    /// The domain of one recipient.
    fn domain(&self, number: u64, index: u32) -> &[u8] {
        let turn = number
            .wrapping_mul(u64::from(self.work.recipients))
            .wrapping_add(u64::from(index));
        let count = self.domains.len() as u64;
        let at = match self.work.mix {
            Mix::Equal => (turn % count * self.stride + self.work.seed % count) % count,
            Mix::Real => {
                let place = xxh3_64_with_seed(&turn.to_le_bytes(), self.work.seed) >> 32;
                self.bounds.partition_point(|&bound| bound <= place) as u64
            }
        };
        let at = usize::try_from(at).unwrap_or(0).min(self.domains.len() - 1);
        &self.domains[at]
    }

    /// Appends the address of one recipient of message `number`.
    pub fn recipient(&self, number: u64, index: u32, out: &mut Vec<u8>) {
        out.push(b'u');
        push_number(number, out);
        if self.work.recipients > 1 {
            out.push(b'.');
            push_number(u64::from(index), out);
        }
        out.push(b'@');
        out.extend_from_slice(self.domain(number, index));
    }

    /// The reverse-path of all messages.
    #[must_use]
    pub const fn reverse_path(&self) -> &'static [u8] {
        REVERSE_PATH
    }

    /// Appends message `number`: header and body, no line of it begins with a dot. With `due_ns` it
    /// carries `X-Due`, by which the sink measures latency.
    pub fn message(&self, number: u64, due_ns: Option<u64>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"From: Sender News <news@sender.test>\r\nTo: <");
        self.recipient(number, 0, out);
        out.extend_from_slice(b">\r\nSubject: Your weekly news, issue ");
        push_number(number, out);
        out.extend_from_slice(b"\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <");
        push_number(number, out);
        out.extend_from_slice(&self.message_id_domain);
        out.extend_from_slice(b">\r\nX-Hikyaku-Seq: ");
        push_number(number, out);
        if let Some(due_ns) = due_ns {
            let _ = write!(out, "\r\nX-Due: {due_ns:019}"); // A Vec takes every write.
        }
        out.extend_from_slice(
            b"\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\
              Content-Transfer-Encoding: 7bit\r\n\r\nDear reader ",
        );
        push_number(number, out);
        out.extend_from_slice(b",\r\n\r\n");
        // Whole lines, and one of at least one character that makes the size exact.
        let left = self.work.size.saturating_sub(out.len() - start).max(3);
        let whole = (left - 3) / (LINE + 2) * (LINE + 2);
        out.extend_from_slice(&self.text[..whole]);
        out.resize(out.len() + left - whole - 2, b'=');
        out.extend_from_slice(b"\r\n");
    }

    /// Appends message `number` as a BSMTP transaction: MAIL, RCPTs, DATA, content, dot.
    pub fn bsmtp(&self, number: u64, due_ns: Option<u64>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MAIL FROM:<");
        out.extend_from_slice(REVERSE_PATH);
        out.extend_from_slice(b">\r\n");
        for index in 0..self.work.recipients {
            out.extend_from_slice(b"RCPT TO:<");
            self.recipient(number, index, out);
            out.extend_from_slice(b">\r\n");
        }
        out.extend_from_slice(b"DATA\r\n");
        self.message(number, due_ns, out);
        out.extend_from_slice(b".\r\n");
    }

    /// Appends message `number` as a pickup file: `x-sender`, `x-receiver`, content.
    pub fn eml(&self, number: u64, due_ns: Option<u64>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"x-sender: ");
        out.extend_from_slice(REVERSE_PATH);
        out.extend_from_slice(b"\r\n");
        for index in 0..self.work.recipients {
            out.extend_from_slice(b"x-receiver: ");
            self.recipient(number, index, out);
            out.extend_from_slice(b"\r\n");
        }
        self.message(number, due_ns, out);
    }

    /// Writes one drop file with the messages `numbers`, all due at `due_ns`. It appears in `drop`
    /// complete or not at all: where `drop/new` exists it is made in `drop/tmp` and renamed there,
    /// else made as `drop/.NAME` and renamed. `sync` makes it safe from a power cut, which data made
    /// for a benchmark need not be.
    ///
    /// # Errors
    ///
    /// Of the file system.
    pub fn write_file(
        &mut self,
        drop: &Path,
        numbers: Range<u64>,
        due_ns: Option<u64>,
        sync: bool,
    ) -> io::Result<Written> {
        let mut bytes = std::mem::take(&mut self.file);
        bytes.clear();
        let single = numbers.end.saturating_sub(numbers.start) == 1;
        let suffix = if single { "eml" } else { "bsmtp" };
        let name = format!("{:08x}-{:0DIGITS$}.{suffix}", self.work.seed, numbers.start);
        for number in numbers {
            if single {
                self.eml(number, due_ns, &mut bytes);
            } else {
                self.bsmtp(number, due_ns, &mut bytes);
            }
        }
        let (made, named) = names(drop, &name);
        let mut file = File::create_new(&made)?;
        file.write_all(&bytes)?;
        if sync {
            file.sync_all()?;
        }
        std::mem::drop(file);
        fs::rename(&made, &named)?;
        if sync && let Some(parent) = named.parent() {
            File::open(parent)?.sync_all()?;
        }
        let written = Written {
            files: 1,
            bytes: bytes.len() as u64,
        };
        self.file = bytes;
        Ok(written)
    }
}

fn names(drop: &Path, name: &str) -> (PathBuf, PathBuf) {
    let new = drop.join("new");
    if new.is_dir() {
        (drop.join("tmp").join(name), new.join(name))
    } else {
        (drop.join(format!(".{name}")), drop.join(name))
    }
}

/// Domains of the real mix with the upper bound of each on 0..2^32. Fewer domains than the table has
/// rows share the whole among the first rows.
fn real_domains(count: u64, plain: impl Fn(u64) -> Box<[u8]>) -> (Vec<Box<[u8]>>, Vec<u64>) {
    let rows = &REAL_SHARES[..REAL_SHARES
        .len()
        .min(usize::try_from(count).unwrap_or(usize::MAX))];
    let others = count - rows.len() as u64;
    let listed: f64 = rows.iter().map(|(_, percent)| percent).sum();
    let total = if others == 0 { listed } else { 100.0 };
    let mut domains = Vec::new();
    let mut shares = Vec::new();
    for (name, percent) in rows {
        domains.push(format!("{name}.test").into_bytes().into_boxed_slice());
        shares.push(percent / total);
    }
    for index in 0..others {
        domains.push(plain(index));
        #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
        shares.push((100.0 - listed) / 100.0 / others as f64);
    }
    let mut sum = 0.0;
    let bounds = shares.into_iter().map(|share| {
        sum += share;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 2^32"
        )]
        let bound = (sum * 4_294_967_296.0) as u64;
        bound
    });
    (domains, bounds.collect())
}

/// Whole lines of words, at least `size` bytes.
fn text(seed: u64, size: usize) -> Vec<u8> {
    const WORDS: [&str; 32] = [
        "and", "offer", "the", "week", "new", "our", "for", "you", "reader", "store", "spring",
        "with", "from", "today", "more", "best", "in", "of", "price", "season", "delivery",
        "garden", "book", "train", "letter", "to", "city", "station", "open", "winter", "all",
        "courier",
    ];
    let mut out = Vec::with_capacity(size + LINE + 2);
    let mut state = seed;
    while out.len() < size {
        let mut line = String::with_capacity(LINE + 16);
        while line.len() < LINE {
            state = xxh3_64_with_seed(b"word", state);
            line.push_str(WORDS[usize::try_from(state >> 59).unwrap_or(0)]);
            line.push(' ');
        }
        line.truncate(LINE - 1);
        // No blank ends a line: some receivers would take it off.
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b".\r\n");
    }
    out
}

/// Twelve digits; a thousand thousand million messages are enough.
fn push_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [b'0'; DIGITS];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits);
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn small(mix: Mix) -> Workload {
        Workload {
            messages: 2000,
            mix,
            ..Workload::canonical(7)
        }
    }

    #[test]
    fn equal_parameters_give_equal_bytes_and_others_do_not() {
        let work = small(Mix::Equal);
        assert_eq!(work.checksum(), work.clone().checksum());
        let others = [
            Workload {
                seed: 8,
                ..work.clone()
            },
            Workload {
                messages: 1999,
                ..work.clone()
            },
            Workload {
                size: 4097,
                ..work.clone()
            },
            Workload {
                domains: 99,
                ..work.clone()
            },
            Workload {
                mix: Mix::Real,
                ..work.clone()
            },
            Workload {
                recipients: 2,
                ..work.clone()
            },
        ];
        for other in others {
            assert_ne!(other.checksum(), work.checksum(), "{other:?}");
        }
        // Pinned: figures quoted for a checksum stay comparable, or this number changes with them.
        assert_eq!(Workload::canonical(1).checksum(), CANONICAL);
    }

    const CANONICAL: u64 = 702_005_060_330_051_328;

    #[test]
    fn every_message_has_its_size_and_legal_lines() {
        for size in (700..900).chain([4096, 65_536]) {
            let generator = Workload {
                size,
                ..small(Mix::Equal)
            }
            .generator();
            for due in [None, Some(1_700_000_000_000_000_000)] {
                let mut message = Vec::new();
                generator.message(1234, due, &mut message);
                assert_eq!(message.len(), size);
                let text = std::str::from_utf8(&message).unwrap();
                assert!(text.ends_with("\r\n") && !text.contains("\r\n."));
                assert!(
                    text.split("\r\n")
                        .all(|line| line.len() <= 78 && !line.contains(['\r', '\n']))
                );
            }
        }
        let tiny = Workload {
            size: 1,
            ..small(Mix::Equal)
        }
        .generator();
        let mut message = Vec::new();
        tiny.message(0, None, &mut message);
        assert!(message.ends_with(b",\r\n\r\n=\r\n"));
    }

    #[test]
    fn domains_get_their_shares() {
        let count = |work: &Workload| {
            let generator = work.generator();
            let mut counts: HashMap<Vec<u8>, u32> = HashMap::new();
            for number in 0..work.messages {
                *counts
                    .entry(generator.domain(number, 0).to_vec())
                    .or_default() += 1;
            }
            counts
        };
        let equal = count(&small(Mix::Equal));
        assert!(
            equal.len() == 100 && equal.values().all(|&n| n == 20),
            "{equal:?}"
        );
        let real = count(&Workload {
            messages: 20_000,
            ..small(Mix::Real)
        });
        assert!(real[b"gmail.com.test".as_slice()].abs_diff(14_600) < 300);
        assert!(real.len() > 95 && real.keys().all(|d| d.ends_with(b".test")));
        let few = count(&Workload {
            domains: 2,
            ..small(Mix::Real)
        });
        assert_eq!(few.len(), 2);
        assert_eq!(
            count(&Workload {
                domains: 0,
                ..small(Mix::Equal)
            })
            .len(),
            1
        );
    }

    #[test]
    fn drop_files_appear_whole_and_hold_each_message_once() {
        let dir = tempfile::tempdir().unwrap();
        let work = Workload {
            messages: 25,
            size: 800,
            ..small(Mix::Equal)
        };
        let written = work.write_drop(dir.path(), 10, true).unwrap();
        assert_eq!(written.files, 3);
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(
            names[0].ends_with("-000000000000.bsmtp") && names[2].ends_with("-000000000020.bsmtp"),
            "{names:?}"
        );
        let all: String = names
            .iter()
            .map(|n| fs::read_to_string(dir.path().join(n)).unwrap())
            .collect();
        assert_eq!(all.len() as u64, written.bytes);
        assert_eq!(all.matches("\r\n.\r\n").count(), 25);
        for number in 0..25 {
            assert_eq!(
                all.matches(&format!("X-Hikyaku-Seq: {number:012}\r\n"))
                    .count(),
                1
            );
        }
        // With the directories of a drop that renames into `new`, files go there; one message is .eml.
        for folder in ["tmp", "new"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let work = Workload {
            messages: 2,
            recipients: 2,
            ..work
        };
        assert_eq!(work.write_drop(dir.path(), 1, false).unwrap().files, 2);
        let file = fs::read_to_string(dir.path().join("new/00000007-000000000001.eml")).unwrap();
        assert!(
            file.starts_with(
                "x-sender: news@sender.test\r\nx-receiver: u000000000001.000000000000@"
            ),
            "{file}"
        );
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
