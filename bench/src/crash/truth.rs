//! What is dropped: messages made from the seed, and what must become of each recipient.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::random::Random;

/// One recipient, as the supervisor knows it.
#[derive(Debug)]
pub(crate) struct Truth {
    /// Whether the sink takes it in the end.
    pub(crate) accepted: bool,
    /// Index of its message's hash.
    pub(crate) message: usize,
}

/// Everything that was dropped in one epoch.
#[derive(Debug, Default)]
pub(crate) struct Ground {
    pub(crate) recipients: HashMap<String, Truth>,
    /// Content hash of each message.
    pub(crate) hashes: Vec<u64>,
    /// Per file: recipients that are delivered, and that are bounced.
    pub(crate) files: HashMap<String, (u64, u64)>,
    /// Recipients that are delivered.
    pub(crate) deliverable: u64,
    /// Files that cannot be accepted.
    pub(crate) bad_files: u64,
    /// Messages and files of earlier epochs: no name is given twice.
    before: (usize, u64),
    named: u64,
}

impl Ground {
    /// Nothing dropped, and no name given that was given before.
    pub(crate) fn next(&self) -> Self {
        Self {
            before: (
                self.before.0 + self.hashes.len(),
                self.before.1 + self.named,
            ),
            ..Self::default()
        }
    }

    fn name(&mut self, kind: char, extension: &str) -> String {
        self.named += 1;
        format!("{kind}{:07}.{extension}", self.before.1 + self.named)
    }

    /// A file that the engine must refuse.
    pub(crate) fn make_bad_file(&mut self) -> (String, Vec<u8>) {
        self.bad_files += 1;
        let content = b"Subject: nobody is named who should get this\r\n\r\n".to_vec();
        (self.name('b', "eml"), content)
    }

    /// `count` new messages in files of 1 to 40.
    pub(crate) fn make_files(&mut self, random: &mut Random, count: u64) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut left = count;
        while left > 0 {
            let single = random.below(3) == 0;
            let messages = if single {
                1
            } else {
                (2 + random.below(39)).min(left)
            };
            left -= messages;
            let name = self.name('f', if single { "eml" } else { "bsmtp" });
            let mut bytes = Vec::new();
            let mut outcome = (0, 0);
            for _ in 0..messages {
                self.make_message(random, single, &mut bytes, &mut outcome);
            }
            self.deliverable += outcome.0;
            self.files.insert(name.clone(), outcome);
            files.push((name, bytes));
        }
        files
    }

    fn make_message(
        &mut self,
        random: &mut Random,
        eml: bool,
        out: &mut Vec<u8>,
        outcome: &mut (u64, u64),
    ) {
        let message = self.hashes.len();
        let number = self.before.0 + message;
        let count = 1 + random.below(3);
        let mut recipients = Vec::new();
        for index in 0..count {
            let (word, accepted) = match random.below(100) {
                0..3 => ("reject-", false),
                3..6 => ("defer-", true),
                _ => ("u", true),
            };
            let domain = random.below(DOMAINS);
            let address = format!("{word}{number}.{index}@d{domain:02}.test");
            *(if accepted {
                &mut outcome.0
            } else {
                &mut outcome.1
            }) += 1;
            self.recipients
                .insert(address.clone(), Truth { accepted, message });
            recipients.push(address);
        }
        let size = 1024 + random.below(3072) as usize;
        let mut content = format!(
            "From: News <news@sender.test>\r\nTo: <{}>\r\nSubject: Issue {number}\r\n\
             Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{number}@sender.test>\r\n\r\n",
            recipients[0]
        )
        .into_bytes();
        while content.len() < size {
            // Some lines begin with a dot, so that stuffing is part of the test.
            let line = format!(
                "{}{:016x}\r\n",
                [".", "", "..", "text "][random.below(4) as usize],
                random.draw()
            );
            content.extend_from_slice(line.as_bytes());
        }
        self.hashes.push(xxh3_64(&content));
        if eml {
            out.extend_from_slice(b"x-sender: news@sender.test\r\n");
            for recipient in &recipients {
                out.extend_from_slice(format!("x-receiver: {recipient}\r\n").as_bytes());
            }
            out.extend_from_slice(&content);
            return;
        }
        out.extend_from_slice(b"MAIL FROM:<news@sender.test>\r\n");
        for recipient in &recipients {
            out.extend_from_slice(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
        }
        out.extend_from_slice(b"DATA\r\n");
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                out.push(b'.');
            }
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b".\r\n");
    }
}

const DOMAINS: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_share_no_name_and_a_seed_repeats() {
        let make = || {
            let mut random = Random(7);
            let mut first = Ground::default();
            let mut names: Vec<String> = first
                .make_files(&mut random, 30)
                .into_iter()
                .map(|f| f.0)
                .collect();
            let mut second = first.next();
            names.extend(
                second
                    .make_files(&mut random, 30)
                    .into_iter()
                    .map(|file| file.0),
            );
            names.push(second.make_bad_file().0);
            let overlap = first
                .recipients
                .keys()
                .any(|r| second.recipients.contains_key(r));
            assert!(!overlap);
            assert_eq!(first.hashes.len() + second.hashes.len(), 60);
            names
        };
        let names = make();
        assert_eq!(names, make());
        let mut distinct = names.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len());
    }
}
