//! What is owed and what was done: the truth, beside what the engine says.
//!
//! The ledger knows every drop file, what each of its recipients must come to, every copy that a peer took, and every
//! line and receipt of the engine. Most promises are checked when something happens, the sums at the end.

use std::collections::BTreeMap;

use hikyaku::handoff::Tally;
use hikyaku::ingest::Format;
use serde_json::Value;

/// A promise that was broken. The text says which, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

pub(super) type Checked = Result<(), Broken>;

/// How a recipient must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Delivered,
    Bounced,
}

/// One drop file as its producer wrote it.
pub(super) struct DropFile {
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) bytes: Vec<u8>,
    /// Nothing of an invalid one is ever sent.
    pub(super) valid: bool,
    pub(super) recipients: u64,
    pub(super) delivered: u64,
    /// A receipt said that it was accepted.
    pub(super) accepted: bool,
    /// The counts of its last final receipt.
    pub(super) ended: Option<Tally>,
}

/// One recipient of one message.
pub(super) struct Recipient {
    pub(super) file: usize,
    pub(super) message: usize,
    pub(super) end: End,
    /// Copies that peers took.
    pub(super) copies: u32,
    /// Times that the engine said that it may have got one more.
    announced: u32,
    /// Power cuts that took its delivery's mark, or came while its reply was out.
    window: u32,
    /// Its final mark is on stable storage.
    settled: bool,
    /// Final lines in the log.
    lines: u32,
}

impl Recipient {
    pub(super) fn new(file: usize, message: usize, end: End) -> Self {
        Self {
            file,
            message,
            end,
            copies: 0,
            announced: 0,
            window: 0,
            settled: false,
            lines: 0,
        }
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) files: Vec<DropFile>,
    /// Content of each message, by file.
    pub(super) contents: Vec<Vec<Vec<u8>>>,
    pub(super) recipients: BTreeMap<String, Recipient>,
    /// Who was announced in lines that are not in the log's file yet.
    pub(super) unwritten: Vec<String>,
    /// Final marks that are appended and not durable: log, batch, whose.
    marks: Vec<(u16, u64, String)>,
    /// The disk itself broke its promise: what is lost must be named, and may be.
    pub(super) rotten: bool,
    /// A write went to another place while this process ran: under a message, perhaps, that was found whole just before.
    pub(super) overwritten: bool,
    /// Recovery named damage.
    pub(super) named: bool,
    pub(super) deliveries: u64,
    pub(super) duplicates: u64,
    pub(super) announcements: u64,
    pub(super) deferrals: u64,
}

impl Ledger {
    /// A peer took a message.
    pub(super) fn taken(&mut self, recipients: &[String], content: &[u8]) -> Checked {
        for address in recipients {
            let Some(recipient) = self.recipients.get_mut(address) else {
                return Err(Broken(format!(
                    "a peer got mail for {address}, which nobody dropped"
                )));
            };
            let expected = &self.contents[recipient.file][recipient.message];
            if !self.overwritten && expected != content {
                return Err(Broken(format!(
                    "P3: the copy for {address} is not the message that was dropped"
                )));
            }
            if !self.files[recipient.file].valid {
                return Err(Broken(format!(
                    "P2: {address} is in a file that was refused, and got mail"
                )));
            }
            if recipient.end != End::Delivered {
                return Err(Broken(format!("{address} must not get mail, and did")));
            }
            recipient.copies += 1;
            self.deliveries += 1;
            if recipient.copies > 1 {
                self.duplicates += 1;
                // Announced before it happens: the attempt in doubt ended, or a restart named it.
                if !self.rotten && recipient.copies - 1 > recipient.announced + recipient.window {
                    return Err(Broken(format!(
                        "P3: {address} got copy {}; announced {}, in a power cut's window {}",
                        recipient.copies, recipient.announced, recipient.window
                    )));
                }
            }
        }
        Ok(())
    }

    /// Lines of the engine's log. `position` answers for a log the batch that its last append goes into.
    pub(super) fn lines(&mut self, lines: &[u8], position: impl Fn(u16) -> Option<u64>) -> Checked {
        for line in lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let Ok(line) = serde_json::from_slice::<Value>(line) else {
                return Err(Broken(format!(
                    "not a JSON line: {}",
                    String::from_utf8_lossy(line)
                )));
            };
            self.line(&line, &position)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &Value, position: &impl Fn(u16) -> Option<u64>) -> Checked {
        let text = |key: &str| line[key].as_str().unwrap_or_default();
        let kind = text("type");
        if matches!(kind, "site" | "engine") {
            return Ok(());
        }
        let address = text("recipient");
        let Some(recipient) = self.recipients.get_mut(address) else {
            // As with its content: it was found whole when its attempt began, and is read again for the line.
            if self.overwritten {
                return Ok(());
            }
            return Err(Broken(format!(
                "a line about {address}, whom nobody dropped: {line}"
            )));
        };
        if recipient.settled && !self.rotten {
            return Err(Broken(format!(
                "{address} has a durable final mark, and then: {line}"
            )));
        }
        if line["possible_duplicate"].as_bool() == Some(true) {
            self.unwritten.push(address.to_owned());
        }
        let end = match kind {
            "delivered" => End::Delivered,
            "bounce" => End::Bounced,
            "deferral" => {
                self.deferrals += 1;
                return Ok(());
            }
            _ => {
                return Err(Broken(format!(
                    "P10: nobody is old enough to expire, and yet: {line}"
                )));
            }
        };
        recipient.lines += 1;
        if end != recipient.end {
            return Err(Broken(format!(
                "P9: {address} must be {:?}, and the log says: {line}",
                recipient.end
            )));
        }
        if end == End::Delivered && recipient.copies == 0 {
            return Err(Broken(format!(
                "P1: {address} is logged as delivered, and no peer has it: {line}"
            )));
        }
        let log = text("message").split('-').next().unwrap_or_default();
        let log = u16::from_str_radix(log, 16).unwrap_or(u16::MAX);
        match position(log) {
            Some(batch) => self.marks.push((log, batch, address.to_owned())),
            None => {
                return Err(Broken(format!(
                    "a line of a log that the shard does not have: {line}"
                )));
            }
        }
        Ok(())
    }

    /// The log's lines are written: they survive the process.
    pub(super) fn written(&mut self) {
        for address in self.unwritten.drain(..) {
            self.announcements += 1;
            if let Some(recipient) = self.recipients.get_mut(&address) {
                recipient.announced += 1;
            }
        }
    }

    /// Everything up to `batch` of this log is on stable storage.
    pub(super) fn durable(&mut self, log: u16, batch: u64) {
        let recipients = &mut self.recipients;
        self.marks.retain(|(of, due, address)| {
            let durable = *of == log && *due <= batch;
            if durable && let Some(recipient) = recipients.get_mut(address) {
                recipient.settled = true;
            }
            !durable
        });
    }

    /// The process ended. After a power cut whoever has a copy without a durable mark may get another.
    pub(super) fn process_ended(&mut self, power: bool) {
        self.overwritten = false;
        self.marks.clear();
        self.unwritten.clear();
        if power {
            let open = self
                .recipients
                .values_mut()
                .filter(|one| one.copies > 0 && !one.settled);
            for recipient in open {
                recipient.window += 1;
            }
        }
    }

    /// A final receipt was written.
    pub(super) fn ended(&mut self, file: usize, tally: Tally) -> Checked {
        let file = &mut self.files[file];
        file.ended = Some(tally);
        // What cannot be read any more is held, and counted so.
        self.named |= tally.held > 0;
        let right = Tally {
            delivered: file.delivered,
            bounced: file.recipients - file.delivered,
            expired: 0,
            held: 0,
            cancelled: 0,
        };
        if !self.rotten && tally != right {
            return Err(Broken(format!(
                "P1: the final receipt of {} says {tally:?} instead of {right:?}",
                file.name
            )));
        }
        Ok(())
    }

    /// Everybody has what they were owed.
    pub(super) fn settle(&self) -> Checked {
        for (address, recipient) in &self.recipients {
            let file = &self.files[recipient.file];
            let owed = file.valid && recipient.end == End::Delivered;
            // The acceptance is safe in its home log a moment before every part is known to be: a device that lies just
            // then loses what no receipt has promised.
            let excused = self.rotten && (self.named || !file.accepted);
            if owed && recipient.copies == 0 && !excused {
                let accepted = if file.accepted {
                    "accepted"
                } else {
                    "never accepted"
                };
                return Err(Broken(format!(
                    "P1: {address} of {} ({accepted}) is lost",
                    file.name
                )));
            }
        }
        for file in &self.files {
            if !self.rotten && file.valid && file.ended.is_none() {
                return Err(Broken(format!("{} has no final receipt", file.name)));
            }
        }
        Ok(())
    }
}
