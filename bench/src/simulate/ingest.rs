//! The ingestion core: drop files through the production parser and desk into the shards' rings.
//!
//! The rule that lets a drop file go is the production one: the desk says when. What is simulated is the directory: a
//! claim is durable before a file is read, a removal only after the sync that precedes the submission's closing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hikyaku::handoff::desk::Step;
use hikyaku::handoff::route::shard_for;
use hikyaku::handoff::{Acceptance, Command, Desk, Receipt, Tally};
use hikyaku::ingest::{Limits, NewMessage, Parser, Summary};
use hikyaku::mail::envelope::domain_of;
use hikyaku::mail::id::SubmissionId;
use hikyaku::time::WallTime;

use super::ledger::{Broken, Checked};
use super::world::{Event, World};

/// Where a drop file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Its producer has not written it yet.
    Unwritten,
    New,
    Claimed(SubmissionId),
    /// Gone; a power cut may bring it back until the directory is synced.
    Removed(SubmissionId, Synced),
    Quarantined,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Synced {
    No,
    Yes,
}

/// What the ingestion core knows; gone with its process.
#[derive(Default)]
pub(super) struct Ingest {
    pub(super) desk: Desk,
    reading: Option<Reading>,
    pub(super) files: BTreeMap<SubmissionId, usize>,
    /// Final and receipted; closed after the next sync.
    closing: Vec<SubmissionId>,
    pub(super) stopped: bool,
    awake: bool,
}

struct Reading {
    file: usize,
    submission: SubmissionId,
    at: usize,
    parser: Parser,
    parcels: Vec<(Vec<NewMessage>, usize)>,
    parcel_bytes: usize,
    staged: bool,
    received: WallTime,
}

impl Ingest {
    /// Files on which work goes on.
    pub(super) fn is_idle(&self) -> bool {
        self.reading.is_none() && self.desk.is_empty() && self.closing.is_empty()
    }
}

impl World {
    /// What a new process finds in the drop directory.
    pub(super) fn restore_ingest(&mut self, accepted: &BTreeMap<SubmissionId, Arc<Acceptance>>) {
        let mut ingest = Ingest::default();
        for (&id, acceptance) in accepted {
            ingest.desk.recovered(id, Arc::clone(acceptance));
            if let Some(file) = self
                .ledger
                .files
                .iter()
                .position(|file| file.name == acceptance.file)
            {
                ingest.files.insert(id, file);
            }
        }
        for place in &mut self.places {
            if let Place::Claimed(submission) = *place {
                *place = if accepted.contains_key(&submission) {
                    Place::Removed(submission, Synced::No)
                } else {
                    Place::New
                };
            }
        }
        if let Some(process) = &mut self.process {
            process.ingest = ingest;
        }
        self.wake_ingest();
    }

    pub(super) fn wake_ingest(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        if !std::mem::replace(&mut process.ingest.awake, true) {
            let at = self.soon(2_000_000);
            self.at(at, Event::Ingest);
        }
    }

    /// One step: a chunk of the file that is read, or the next file.
    pub(super) fn ingest_turn(&mut self) -> Checked {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        process.ingest.awake = false;
        if process.ingest.stopped {
            return Ok(());
        }
        match process.ingest.reading.take() {
            Some(reading) => self.read_chunk(reading)?,
            None => {
                let Some(file) = self.places.iter().position(|place| *place == Place::New) else {
                    return Ok(());
                };
                let submission = SubmissionId(
                    u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64()),
                );
                self.places[file] = Place::Claimed(submission);
                let name = self.ledger.files[file].name.clone();
                self.note(&[b"claim", name.as_bytes(), &submission.0.to_le_bytes()]);
                let reading = Reading {
                    file,
                    submission,
                    at: 0,
                    parser: Parser::new(self.ledger.files[file].format, Limits::default()),
                    parcels: (0..self.shards()).map(|_| (Vec::new(), 0)).collect(),
                    parcel_bytes: [1, 600, 5_000, 256 << 10][self.rng.below(4)],
                    staged: false,
                    received: self.wall(),
                };
                if let Some(process) = &mut self.process {
                    process.ingest.files.insert(submission, file);
                    process.ingest.reading = Some(reading);
                }
            }
        }
        self.wake_ingest();
        Ok(())
    }

    fn read_chunk(&mut self, mut reading: Reading) -> Checked {
        let bytes = &self.ledger.files[reading.file].bytes;
        let mut messages = Vec::new();
        let summary = if reading.at < bytes.len() {
            let end = bytes.len().min(reading.at + 1 + self.rng.below(3_000));
            let chunk = Arc::new(bytes[reading.at..end].to_vec());
            reading.at = end;
            reading.parser.feed(&chunk, &mut messages).map(|()| None)
        } else {
            let next = Parser::new(self.ledger.files[reading.file].format, Limits::default());
            std::mem::replace(&mut reading.parser, next)
                .finish(&mut messages)
                .map(Some)
        };
        match summary {
            Err(refusal) => {
                if self.ledger.files[reading.file].valid {
                    return Err(Broken(format!("a valid file is refused: {refusal}")));
                }
                self.places[reading.file] = Place::Quarantined;
                self.discard(reading.submission);
                Ok(())
            }
            Ok(summary) => {
                let limit = if summary.is_some() {
                    usize::MAX
                } else {
                    reading.parcel_bytes
                };
                for message in messages {
                    self.assign(&mut reading, &message, limit);
                }
                match summary {
                    Some(_) if !self.ledger.files[reading.file].valid => {
                        return Err(Broken(format!(
                            "{} is not valid, and was taken",
                            self.ledger.files[reading.file].name
                        )));
                    }
                    Some(summary) => self.finish(reading, &summary)?,
                    None => {
                        if let Some(process) = &mut self.process {
                            process.ingest.reading = Some(reading);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Parts of a message go to the shards of their recipients' domains.
    fn assign(&mut self, reading: &mut Reading, message: &NewMessage, limit: usize) {
        let shards = u16::try_from(reading.parcels.len()).unwrap_or(u16::MAX);
        let mut parts: BTreeMap<usize, Vec<Box<str>>> = BTreeMap::new();
        for recipient in &message.envelope.recipients {
            let shard = usize::from(shard_for(domain_of(recipient), shards).0);
            parts.entry(shard).or_default().push(recipient.clone());
        }
        for (outlet, recipients) in parts {
            let mut part = message.clone();
            part.envelope.recipients = recipients;
            let (messages, bytes) = &mut reading.parcels[outlet];
            *bytes += part.content.len();
            messages.push(part);
            if *bytes >= limit {
                *bytes = 0;
                let messages = std::mem::take(messages);
                self.stage(reading, outlet, messages);
            }
        }
    }

    fn stage(&mut self, reading: &mut Reading, outlet: usize, messages: Vec<NewMessage>) {
        let submission = reading.submission;
        reading.staged = true;
        if let Some(process) = &mut self.process {
            process
                .ingest
                .desk
                .staged(submission, u16::try_from(outlet).unwrap_or(u16::MAX));
        }
        self.give(
            outlet,
            Command::Stage {
                submission,
                messages,
                accept: None,
            },
        );
    }

    fn finish(&mut self, mut reading: Reading, summary: &Summary) -> Checked {
        let submission = reading.submission;
        let acceptance = Acceptance {
            file: self.ledger.files[reading.file].name.clone(),
            accepted_ms: reading.received.unix_millis(),
            messages: summary.messages,
            recipients: summary.recipients,
            logs: Vec::new(),
            suppressed: 0,
            keyed: None,
            job: None,
        };
        let mut parcels: Vec<(usize, Vec<NewMessage>)> = std::mem::take(&mut reading.parcels)
            .into_iter()
            .enumerate()
            .filter(|(_, (messages, _))| !messages.is_empty())
            .map(|(outlet, (messages, _))| (outlet, messages))
            .collect();
        if !reading.staged && parcels.len() == 1 {
            let (outlet, messages) = parcels.remove(0);
            let log = u16::try_from(outlet).unwrap_or(u16::MAX);
            let acceptance = Arc::new(Acceptance {
                logs: vec![log],
                ..acceptance
            });
            if let Some(process) = &mut self.process {
                process
                    .ingest
                    .desk
                    .read_whole_in_one(submission, log, &acceptance);
            }
            self.give(
                outlet,
                Command::Stage {
                    submission,
                    messages,
                    accept: Some(acceptance),
                },
            );
            return Ok(());
        }
        for (outlet, messages) in parcels {
            self.stage(&mut reading, outlet, messages);
        }
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        match process.ingest.desk.read_whole(submission, acceptance) {
            Some(step) => self.carry_out(step),
            None => Ok(()),
        }
    }

    fn discard(&mut self, submission: SubmissionId) {
        let Some(process) = &mut self.process else {
            return;
        };
        for log in process.ingest.desk.refused(submission) {
            self.give_log(
                log,
                |submission| Command::Discard { submission },
                submission,
            );
        }
    }

    /// A shard spoke.
    pub(super) fn on_receipt(&mut self, receipt: &Receipt) -> Checked {
        self.note(&[format!("{receipt:?}").as_bytes()]);
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        match process.ingest.desk.on_receipt(receipt) {
            Some(step) => self.carry_out(step),
            None => Ok(()),
        }
    }

    fn carry_out(&mut self, step: Step) -> Checked {
        match step {
            Step::Accept(submission, acceptance, logs) => {
                for log in logs {
                    let acceptance = Arc::clone(&acceptance);
                    self.give_log(
                        log,
                        move |submission| Command::Accept {
                            submission,
                            acceptance: Arc::clone(&acceptance),
                        },
                        submission,
                    );
                }
                Ok(())
            }
            Step::Accepted(submission, _) => {
                self.note(&[b"accepted", &submission.0.to_le_bytes()]);
                let Some(process) = &mut self.process else {
                    return Ok(());
                };
                if let Some(&file) = process.ingest.files.get(&submission) {
                    self.ledger.files[file].accepted = true;
                    self.places[file] = Place::Removed(submission, Synced::No);
                }
                match process.ingest.desk.final_now(submission) {
                    Some(step) => self.carry_out(step),
                    None => Ok(()),
                }
            }
            Step::Final(submission, acceptance, tally) => {
                self.write_final(submission, &acceptance, tally)
            }
        }
    }

    fn write_final(
        &mut self,
        submission: SubmissionId,
        acceptance: &Acceptance,
        tally: Tally,
    ) -> Checked {
        self.note(&[
            b"final",
            acceptance.file.as_bytes(),
            format!("{tally:?}").as_bytes(),
        ]);
        let known = self.finals.contains_key(&submission);
        if !(tally.total() < acceptance.recipients && known) {
            self.finals.insert(submission, tally);
            let file = self
                .ledger
                .files
                .iter()
                .position(|file| file.name == acceptance.file);
            match file {
                Some(file) => self.ledger.ended(file, tally)?,
                // Its acceptance could not be read: the receipt has its number for a name, and says who is held.
                None if self.ledger.rotten => self.ledger.named |= tally.held > 0,
                None => {
                    return Err(Broken(format!(
                        "a receipt for {}, which nobody dropped",
                        acceptance.file
                    )));
                }
            }
        }
        if let Some(process) = &mut self.process {
            process.ingest.closing.push(submission);
        }
        let at = self.soon(100_000_000);
        self.at(at, Event::SyncDrops);
        Ok(())
    }

    /// Removals are durable; what is final is forgotten.
    pub(super) fn sync_drops(&mut self) {
        for place in &mut self.places {
            if let Place::Removed(submission, _) = *place {
                *place = Place::Removed(submission, Synced::Yes);
            }
        }
        let Some(process) = &mut self.process else {
            return;
        };
        for submission in std::mem::take(&mut process.ingest.closing) {
            self.note(&[b"close", &submission.0.to_le_bytes()]);
            let Some(process) = &mut self.process else {
                return;
            };
            for log in process.ingest.desk.closed(submission) {
                self.give_log(log, |submission| Command::Close { submission }, submission);
            }
        }
    }

    /// To the shard of a log; a log of a time with more shards is known to one of them only.
    fn give_log(
        &mut self,
        log: u16,
        command: impl Fn(SubmissionId) -> Command,
        submission: SubmissionId,
    ) {
        let log = usize::from(log);
        if log < self.shards() {
            self.give(log, command(submission));
        } else if let Command::Close { .. } = command(submission) {
            for shard in 0..self.shards() {
                self.give(shard, command(submission));
            }
        }
    }

    fn give(&mut self, shard: usize, command: Command) {
        let at = self.soon(300_000);
        if let Some(process) = &mut self.process {
            process.shards[shard].ring.push_back(command);
            self.at(at, Event::Ring(shard));
        }
    }

    /// The shard takes commands as long as its spool has room.
    pub(super) fn serve_ring(&mut self, shard: usize) -> Checked {
        loop {
            let Some(process) = &mut self.process else {
                return Ok(());
            };
            let state = &mut process.shards[shard];
            if state.waits_for_room {
                return Ok(());
            }
            let Some(command) = state.ring.pop_front() else {
                return Ok(());
            };
            let Some(outcome) = self.turn(shard, |shard, now| shard.on_command(now, command))?
            else {
                return Ok(());
            };
            if let Err(command) = outcome
                && let Some(process) = &mut self.process
            {
                self.stats.refused_commands += 1;
                process.shards[shard].ring.push_front(command);
                process.shards[shard].waits_for_room = true;
            }
        }
    }
}

/// Commands in order.
pub(super) type Ring = VecDeque<Command>;
