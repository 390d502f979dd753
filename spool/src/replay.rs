//! Records, in the order in which they were written -> what is alive.
//!
//! Replay keeps the same table as the running log and follows the same rules, so that a log which was opened again behaves
//! like one that was never closed. Total: a record whose content makes no sense is passed over.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::error::SpoolError;
use crate::indoubt::{Doubt, Found, InDoubtRecipient};
use crate::log::{Kill, kill_in};
use crate::mark::{Deferral, FinalMark, Intent};
use crate::reclaim::decode_accept;
use crate::record::{
    FLAG_ACCEPTED, FLAG_IGNORABLE, FLAG_RESTATED, Kind, MessageHead, Record, u64_at, u128_at,
};
use crate::scan::BatchView;
use crate::segment::Account;
use crate::table::{Deferred, Finished, MessageRef, Spot, Table};

/// Slots of messages by sequence number. New messages come in runs without a gap, so a number is found by subtraction;
/// moved ones, which come later with an old number, have a map.
#[derive(Debug, Default)]
struct SeqIndex {
    /// First number of each run, and where in `slots` it begins.
    runs: Vec<(u64, usize)>,
    slots: Vec<u32>,
    last: u64,
    moved: HashMap<u64, u32>,
}

impl SeqIndex {
    fn add(&mut self, at: MessageRef) {
        if at.seq() <= self.last {
            self.moved.insert(at.seq(), at.slot());
            return;
        }
        if self.runs.is_empty() || at.seq() != self.last + 1 {
            self.runs.push((at.seq(), self.slots.len()));
        }
        self.last = at.seq();
        self.slots.push(at.slot());
    }

    /// Where the message was put; the table knows whether it is alive.
    fn find(&self, seq: u64) -> Option<MessageRef> {
        if let Some(slot) = self.moved.get(&seq) {
            return Some(MessageRef::from_parts(seq, *slot));
        }
        let run = self
            .runs
            .partition_point(|(first, _)| *first <= seq)
            .checked_sub(1)?;
        let (first, start) = self.runs[run];
        let end = self
            .runs
            .get(run + 1)
            .map_or(self.slots.len(), |next| next.1);
        let index = start + usize::try_from(seq - first).ok()?;
        let slot = self.slots[..end].get(index)?;
        Some(MessageRef::from_parts(seq, *slot))
    }
}

/// What is known of a recipient by two signs of it: an intent and slots, of one attempt or of several, since a process
/// that ended soon after its start has settled nothing. That the peer took one attempt, or may have, is never forgotten
/// for what is known of another; a slot says more than the intent of the same attempt, unless it did not hear of the dot
/// before a power cut.
fn stronger(told: InDoubtRecipient, doubt: InDoubtRecipient) -> InDoubtRecipient {
    let attempt = told.attempt.max(doubt.attempt);
    let newer = if doubt.attempt >= told.attempt {
        doubt
    } else {
        told
    };
    let same = doubt.attempt == told.attempt;
    let has = |state| [told, doubt].into_iter().find(|d| d.state == state);
    let one = match (has(Doubt::Accepted), has(Doubt::Sent)) {
        (Some(accepted), _) => accepted,
        (None, Some(_)) if same && doubt.state == Doubt::Refused => doubt,
        (None, Some(sent)) => sent,
        (None, None) => newer,
    };
    InDoubtRecipient { attempt, ..one }
}

/// Records -> table.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) table: Table,
    index: SeqIndex,
    pub(crate) accounts: Vec<Account>,
    pub(crate) next_message_seq: u64,
}

impl Replay {
    /// `segments` of them will be replayed, oldest first; `next_message_seq` is what their headers know.
    pub(crate) fn new(segments: usize, next_message_seq: u64) -> Replay {
        Replay {
            table: Table::default(),
            index: SeqIndex::default(),
            accounts: (0..segments).map(|_| Account::default()).collect(),
            next_message_seq: next_message_seq.max(1),
        }
    }

    pub(crate) fn batch(
        &mut self,
        segment: u32,
        path: &Path,
        batch: &BatchView<'_>,
    ) -> Result<(), SpoolError> {
        batch
            .records()
            .try_for_each(|(offset, record)| self.found(segment, path, offset, &record))
    }

    /// One record at `offset` of a segment. An error is one that must not be passed over. Of a message's payload only the
    /// head is looked at, of an accept's only what lies before the engine's bytes.
    pub(crate) fn found(
        &mut self,
        segment: u32,
        path: &Path,
        offset: u64,
        record: &Record<'_>,
    ) -> Result<(), SpoolError> {
        let Some(kind) = Kind::from_u8(record.kind) else {
            if record.flags & FLAG_IGNORABLE != 0 {
                return Ok(());
            }
            return Err(SpoolError::UnknownRecord {
                path: path.into(),
                offset,
                kind: record.kind,
            });
        };
        let (Ok(offset), Ok(len)) = (u32::try_from(offset), u32::try_from(record.size)) else {
            return Ok(());
        };
        let spot = Spot {
            segment,
            offset,
            len,
        };
        self.record(kind, record, spot);
        Ok(())
    }

    /// A record whose content does not make sense is passed over: its batch is intact, so it was written like that.
    fn record(&mut self, kind: Kind, record: &Record<'_>, spot: Spot) {
        match kind {
            Kind::Message => self.message(record, spot),
            Kind::Accept => {
                if let Some((id, tally)) = decode_accept(record.payload) {
                    let of = self.table.submission_slot(id);
                    let submission = self.table.submission_mut(of);
                    if record.flags & FLAG_RESTATED != 0 {
                        submission.tally = tally;
                    }
                    if record.flags & FLAG_ACCEPTED != 0 {
                        submission.accepted = true;
                        submission.accept = Some(spot);
                    }
                    self.anchor(of, spot.segment);
                }
            }
            Kind::Close => {
                if let Some(of) = self.table.find_submission(u128_at(record.payload, 0)) {
                    if self.table.submission(of).live > 0 {
                        self.kill_all(of, Kill::Annexes);
                    }
                    self.table.close(of);
                }
            }
            Kind::Discard => {
                if let Some(of) = self.table.find_submission(u128_at(record.payload, 0)) {
                    self.kill_all(of, Kill::Everything);
                    self.table.forget(of);
                }
            }
            Kind::Deferral => {
                let Some(deferral) = Deferral::decode(record) else {
                    return;
                };
                if let Some(at) = self.index.find(deferral.seq) {
                    let deferred = Deferred::new(deferral.attempts, deferral.due_wall_ms);
                    let deferred = deferred.with_crashes(deferral.crashes);
                    let alive = self.table.defer(at, deferral.recipient, deferred);
                    if alive && deferral.in_doubt {
                        // As an attempt that no mark followed, which is what it is.
                        self.table.intend(at, deferral.recipient, deferral.attempts);
                    }
                }
            }
            Kind::Final => self.final_mark(record, spot),
            Kind::State => self.state(record),
            Kind::Seal => {}
            Kind::Intent => {
                if let Some(intent) = Intent::decode(record)
                    && let Some(at) = self.index.find(intent.seq)
                {
                    self.table.intend(at, intent.recipient, intent.attempt);
                }
            }
        }
    }

    fn kill_all(&mut self, of: u32, which: Kill) {
        for (segment, account) in self.accounts.iter_mut().enumerate() {
            kill_in(&mut self.table, of, segment as u32, account, which);
        }
    }

    fn message(&mut self, record: &Record<'_>, spot: Spot) {
        let Some(head) = MessageHead::decode_head(record.payload) else {
            return;
        };
        let recipients = record.extra;
        self.next_message_seq = self.next_message_seq.max(head.seq.saturating_add(1));
        let known = self.index.find(head.seq);
        let at = match known.filter(|at| {
            self.table
                .entry(*at)
                .is_some_and(|entry| entry.recipients == recipients)
        }) {
            Some(at) => {
                if let Some(old) = self.table.relocate(at, spot) {
                    self.accounts[old.segment as usize].remove(old);
                }
                at
            }
            // It was seen and is dead: a copy made before its last mark.
            None if known.is_some() => return,
            None => {
                let of = self.table.submission_slot(head.submission);
                let at = self.table.insert(head.seq, of, recipients, spot);
                self.index.add(at);
                at
            }
        };
        self.accounts[spot.segment as usize].add(at.slot(), spot);
        if record.flags & FLAG_ACCEPTED != 0 {
            let of = self.table.submission_slot(head.submission);
            self.table.submission_mut(of).accepted = true;
        }
    }

    fn final_mark(&mut self, record: &Record<'_>, spot: Spot) {
        let Some(mark) = FinalMark::decode(record) else {
            return;
        };
        self.next_message_seq = self.next_message_seq.max(mark.seq.saturating_add(1));
        let known = self
            .index
            .find(mark.seq)
            .filter(|at| self.table.entry(*at).is_some());
        if known.is_some_and(|at| self.table.is_done(at, mark.recipient)) {
            return;
        }
        let of = self.table.submission_slot(mark.submission);
        let submission = self.table.submission_mut(of);
        submission.tally.count(mark.verdict);
        if !submission.closed {
            self.anchor(of, spot.segment);
        }
        if let Some(Finished::Message(dead)) = known.map(|at| self.table.finish(at, mark.recipient))
        {
            self.accounts[dead.segment as usize].remove(dead);
        }
    }

    fn state(&mut self, record: &Record<'_>) {
        let (seq, deferred) = (u64_at(record.payload, 0), u64_at(record.payload, 8));
        let Some(at) = self.index.find(seq) else {
            return;
        };
        let words = record.extra.div_ceil(64) as usize;
        let Some((done, rest)) = record
            .payload
            .get(16..)
            .and_then(|rest| rest.split_at_checked(words * 8))
        else {
            return;
        };
        for (index, word) in done.chunks_exact(8).enumerate() {
            let word = u64_at(word, 0);
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                // Counted where its mark was written, or in a restated tally.
                if let Finished::Message(dead) = self.table.finish(at, index as u32 * 64 + bit) {
                    self.accounts[dead.segment as usize].remove(dead);
                }
            }
        }
        for pair in rest
            .chunks_exact(16)
            .take(usize::try_from(deferred).unwrap_or(usize::MAX))
        {
            if let Ok(recipient) = u32::try_from(u64_at(pair, 0)) {
                self.table
                    .restate_deferral(at, recipient, Deferred(u64_at(pair, 8)));
            }
        }
    }

    fn anchor(&mut self, of: u32, segment: u32) {
        if self.table.anchor(of, segment) {
            self.accounts[segment as usize].anchored.push(of);
        }
    }

    /// Where a live message has its entry.
    pub(crate) fn find(&self, seq: u64) -> Option<MessageRef> {
        self.index
            .find(seq)
            .filter(|at| self.table.entry(*at).is_some())
    }

    /// Who is in doubt: the slots that were found, and intents without a mark behind them. A slot says more, so it goes
    /// before an intent for the same recipient; one whose recipient is final, or gone, is stale. In the order of the log.
    pub(crate) fn in_doubt(&self, found: &[Found]) -> Vec<InDoubtRecipient> {
        let mut all: BTreeMap<(u64, u32), InDoubtRecipient> = BTreeMap::new();
        for (message, recipient, attempt) in self.table.intents() {
            let doubt = InDoubtRecipient {
                message,
                recipient,
                attempt,
                state: Doubt::Sent,
                code: 0,
                crashes: 0,
                noted: false,
            };
            all.insert((message.seq(), recipient), doubt);
        }
        for found in found {
            let Some(message) = self.index.find(found.seq) else {
                continue;
            };
            let recipient = found.recipient;
            if self.table.is_done(message, recipient) {
                continue;
            }
            let doubt = InDoubtRecipient {
                message,
                recipient,
                attempt: found.attempt,
                state: found.state,
                code: found.code,
                crashes: 0,
                noted: false,
            };
            let told = all.entry((found.seq, recipient)).or_insert(doubt);
            *told = stronger(*told, doubt);
        }
        let counted = all.into_values().map(|doubt| {
            let before = self.table.deferred(doubt.message, doubt.recipient);
            let noted = before.attempts() >= doubt.attempt;
            let crashes = before.crashes().saturating_add(u8::from(!noted));
            InDoubtRecipient {
                crashes,
                noted,
                ..doubt
            }
        });
        counted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_finds_runs_and_moved() {
        let mut index = SeqIndex::default();
        for (slot, seq) in [5u64, 6, 7, 10, 11, 2, 6].into_iter().enumerate() {
            index.add(MessageRef::from_parts(seq, slot as u32));
        }
        let find = |seq| index.find(seq).map(|at| at.slot());
        let expected = [
            (5, Some(0)),
            (6, Some(6)),
            (7, Some(2)),
            (8, None),
            (10, Some(3)),
            (11, Some(4)),
            (12, None),
        ];
        for (seq, slot) in expected {
            assert_eq!(find(seq), slot, "{seq}");
        }
        assert_eq!((find(2), find(1)), (Some(5), None));
    }
}
