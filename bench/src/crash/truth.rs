//! What is dropped: messages made from the seed, and what must become of each recipient.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;

use xxhash_rust::xxh3::xxh3_64;

use super::Run;

/// One recipient, as the supervisor knows it.
pub(super) struct Truth {
    /// Whether the sink takes it in the end.
    pub(super) accepted: bool,
    /// Number of its message.
    pub(super) message: usize,
}

/// Everything that was dropped.
#[derive(Default)]
pub(super) struct Ground {
    pub(super) recipients: HashMap<String, Truth>,
    /// Content hash of each message.
    pub(super) hashes: Vec<u64>,
    /// Per file: recipients that are delivered, and that are bounced.
    pub(super) files: HashMap<String, (u64, u64)>,
}

impl Run<'_> {
    /// `count` new messages in files of 1 to 40, entered into the truth.
    pub(super) fn make_files(&mut self, count: u64) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        let mut left = count;
        while left > 0 {
            let single = self.random.below(3) == 0;
            let messages = if single {
                1
            } else {
                (2 + self.random.below(39)).min(left)
            };
            left -= messages;
            let number = self.ground.files.len();
            let name = format!("f{number:06}.{}", if single { "eml" } else { "bsmtp" });
            let mut bytes = Vec::new();
            let mut outcome = (0, 0);
            for _ in 0..messages {
                self.make_message(single, &mut bytes, &mut outcome);
            }
            self.ground.files.insert(name.clone(), outcome);
            files.push((name, bytes));
        }
        files
    }

    fn make_message(&mut self, eml: bool, out: &mut Vec<u8>, outcome: &mut (u64, u64)) {
        let number = self.ground.hashes.len();
        let count = 1 + self.random.below(3);
        let mut recipients = Vec::new();
        for index in 0..count {
            let (word, accepted) = match self.random.below(100) {
                0..3 => ("reject-", false),
                3..6 => ("defer-", true),
                _ => ("u", true),
            };
            let domain = self.random.below(DOMAINS);
            let address = format!("{word}{number}.{index}@d{domain:02}.test");
            *(if accepted {
                &mut outcome.0
            } else {
                &mut outcome.1
            }) += 1;
            self.ground.recipients.insert(
                address.clone(),
                Truth {
                    accepted,
                    message: number,
                },
            );
            recipients.push(address);
        }
        let size = 1024 + self.random.below(3072) as usize;
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
                [".", "", "..", "text "][self.random.below(4) as usize],
                self.random.next()
            );
            content.extend_from_slice(line.as_bytes());
        }
        self.ground.hashes.push(xxh3_64(&content));
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

    pub(super) fn drop_file(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let made = self.dir.join("drop/tmp").join(name);
        File::create_new(&made)?.write_all(bytes)?;
        fs::rename(made, self.dir.join("drop/new").join(name))
    }
}

const DOMAINS: u64 = 20;
