//! What is alive: one small entry per message with a recipient that is not final, one per submission that is not closed.
//!
//! A message costs 32 bytes here; only messages with several recipients have a bitmap beside it, and only deferred
//! recipients of those a place in a tree. Entries live in slots that `MessageRef` names, so every access is O(1), a moved
//! message keeps its reference, and memory follows the largest number alive at once, not the number that passed through.

mod entry;
mod submission;

pub(crate) use entry::{Deferred, Entry};
pub(crate) use submission::Submission;

use std::collections::{BTreeMap, HashMap};

use entry::{ALONE, FREE, Packed, SEVERAL, Several, WHAT};

/// Handle of a message, valid until its last recipient is final. It survives the message being moved to another segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageRef {
    seq: u64,
    slot: u32,
}

impl MessageRef {
    /// The message's sequence number, which never repeats in its log.
    pub fn seq(self) -> u64 {
        self.seq
    }

    /// Where the log keeps its entry.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Puts a reference together again, for callers that pack the two numbers.
    pub fn from_parts(seq: u64, slot: u32) -> MessageRef {
        MessageRef { seq, slot }
    }
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// What a final mark did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finished {
    /// Unknown message or recipient, or already final.
    Nothing,
    Recipient,
    /// The last one: the message is dead, and lay there.
    Message(Spot),
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Packed>,
    entries_free: Vec<u32>,
    several: HashMap<u32, Box<Several>>,
    submissions: Vec<Submission>,
    submissions_free: Vec<u32>,
    by_id: HashMap<u128, u32>,
    /// Attempts whose dot may have been sent and of which nothing certain is known, by slot and recipient: with intents one
    /// for each connection, and those whose connection broke behind the dot until their next attempt.
    intents: BTreeMap<(u32, u32), u16>,
    /// Recipients that are not final, of all messages.
    pub(crate) recipients_left: u64,
    /// Messages without recipients.
    annexes: u64,
}

impl Table {
    pub(crate) fn entry(&self, at: MessageRef) -> Option<Entry> {
        self.packed(at).map(Packed::entry)
    }

    fn packed(&self, at: MessageRef) -> Option<&Packed> {
        self.entries
            .get(at.slot as usize)
            .filter(|packed| packed.is(at.seq))
    }

    fn packed_mut(&mut self, at: MessageRef) -> Option<&mut Packed> {
        self.entries
            .get_mut(at.slot as usize)
            .filter(|packed| packed.is(at.seq))
    }

    /// State of the message beside its entry, if it has several recipients.
    fn several(&self, at: MessageRef) -> Option<&Several> {
        let packed = self.entries.get(at.slot as usize)?;
        (packed.what() == SEVERAL)
            .then(|| self.several.get(&at.slot))?
            .map(|found| &**found)
    }

    fn several_mut(&mut self, at: MessageRef) -> Option<&mut Several> {
        let packed = self.entries.get(at.slot as usize)?;
        (packed.what() == SEVERAL)
            .then(|| self.several.get_mut(&at.slot))?
            .map(|found| &mut **found)
    }

    /// Whatever is alive in the slot.
    pub(crate) fn in_slot(&self, slot: u32) -> Option<(MessageRef, Entry)> {
        let packed = self.entries.get(slot as usize)?;
        let entry = (packed.what() != FREE).then(|| packed.entry())?;
        let seq = entry.seq;
        Some((MessageRef { seq, slot }, entry))
    }

    pub(crate) fn slots(&self) -> u32 {
        self.entries.len() as u32 // `insert` keeps it below u32::MAX
    }

    /// A new message; an annex when `recipients` is 0.
    pub(crate) fn insert(
        &mut self,
        seq: u64,
        submission: u32,
        recipients: u32,
        spot: Spot,
    ) -> MessageRef {
        let (what, state) = match recipients {
            1 => (ALONE, 0),
            _ => (SEVERAL, u64::from(recipients) << 32 | u64::from(recipients)),
        };
        // Numbers count up from 1: the two highest bits are never used.
        let entry = Packed {
            seq: seq & !WHAT | what,
            state,
            spot,
            submission,
        };
        let slot = match self.entries_free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1)
                    .expect("4 billion live messages need 160 GiB before they need this")
            }
        };
        if recipients > 1 {
            let words = recipients.div_ceil(64) as usize;
            self.several.insert(
                slot,
                Box::new(Several {
                    done: vec![0; words].into(),
                    ..Several::default()
                }),
            );
        }
        self.recipients_left += u64::from(recipients);
        self.annexes += u64::from(recipients == 0);
        let of = &mut self.submissions[submission as usize];
        of.first_segment = if of.live == 0 {
            spot.segment
        } else {
            of.first_segment.min(spot.segment)
        };
        of.live += 1;
        MessageRef { seq, slot }
    }

    /// The message now lies elsewhere; says where it lay.
    pub(crate) fn relocate(&mut self, at: MessageRef, spot: Spot) -> Option<Spot> {
        self.packed_mut(at)
            .map(|entry| std::mem::replace(&mut entry.spot, spot))
    }

    pub(crate) fn is_done(&self, at: MessageRef, recipient: u32) -> bool {
        match self.entry(at) {
            None => true,
            Some(entry) if recipient >= entry.recipients => true,
            Some(_) => self
                .several(at)
                .is_some_and(|several| bit(&several.done, recipient)),
        }
    }

    pub(crate) fn finish(&mut self, at: MessageRef, recipient: u32) -> Finished {
        if self.is_done(at, recipient) {
            return Finished::Nothing;
        }
        if let Some(several) = self.several_mut(at) {
            several.done[recipient as usize / 64] |= 1 << (recipient % 64);
            several.deferred.remove(&recipient);
        }
        self.intents.remove(&(at.slot, recipient));
        self.recipients_left -= 1;
        let packed = &mut self.entries[at.slot as usize];
        if packed.what() == SEVERAL {
            packed.state -= 1 << 32;
            if packed.state >> 32 > 0 {
                return Finished::Recipient;
            }
        }
        let spot = packed.spot;
        self.release(at.slot);
        Finished::Message(spot)
    }

    /// The message dies with all its recipients; says where it lay.
    pub(crate) fn kill(&mut self, at: MessageRef) -> Option<Spot> {
        let Entry { spot, left, .. } = self.entry(at)?;
        self.recipients_left -= u64::from(left);
        self.release(at.slot);
        Some(spot)
    }

    fn release(&mut self, slot: u32) {
        let packed = &mut self.entries[slot as usize];
        let submission = packed.submission;
        if packed.what() == SEVERAL {
            self.annexes -= u64::from(packed.entry().recipients == 0);
            self.several.remove(&slot);
        }
        packed.seq &= !WHAT;
        while let Some((&of, _)) = self.intents.range((slot, 0)..=(slot, u32::MAX)).next() {
            self.intents.remove(&of);
        }
        self.entries_free.push(slot);
        let of = &mut self.submissions[submission as usize];
        of.live -= 1;
        if of.live == 0 && of.closed {
            self.forget(submission);
        }
    }

    /// The recipient waits, and what was intended for it is over.
    pub(crate) fn defer(&mut self, at: MessageRef, recipient: u32, deferred: Deferred) -> bool {
        self.intents.remove(&(at.slot, recipient));
        self.restate_deferral(at, recipient, deferred)
    }

    /// The recipient's deferral, told once more: an intent may have followed it.
    pub(crate) fn restate_deferral(
        &mut self,
        at: MessageRef,
        recipient: u32,
        deferred: Deferred,
    ) -> bool {
        if self.is_done(at, recipient) {
            return false;
        }
        match self.several_mut(at) {
            Some(several) => drop(several.deferred.insert(recipient, deferred)),
            None => self.entries[at.slot as usize].state = deferred.0,
        }
        true
    }

    /// The recipient's dot may be sent from now on. False when it is final.
    pub(crate) fn intend(&mut self, at: MessageRef, recipient: u32, attempt: u16) -> bool {
        let alive = !self.is_done(at, recipient);
        if alive {
            self.intents.insert((at.slot, recipient), attempt);
        }
        alive
    }

    /// Attempts at recipients of the message whose dot may have been sent.
    pub(crate) fn intents_of(&self, at: MessageRef) -> impl Iterator<Item = (u32, u16)> {
        let of = self.intents.range((at.slot, 0)..=(at.slot, u32::MAX));
        of.map(|(&(_, recipient), &attempt)| (recipient, attempt))
    }

    /// All of them.
    pub(crate) fn intents(&self) -> impl Iterator<Item = (MessageRef, u32, u16)> {
        let all = self.intents.iter();
        all.filter_map(|(&(slot, recipient), &attempt)| {
            Some((self.in_slot(slot)?.0, recipient, attempt))
        })
    }

    /// Recipients of the message in `slot` that are not final, with their deferral.
    pub(crate) fn waiting(&self, at: MessageRef) -> impl Iterator<Item = (u32, Deferred)> {
        let several = self.several(at);
        let (recipients, alone) = self
            .entry(at)
            .map_or((0, Deferred(0)), |entry| (entry.recipients, entry.deferred));
        (0..recipients).filter_map(move |recipient| match several {
            None => Some((recipient, alone)),
            Some(several) if bit(&several.done, recipient) => None,
            Some(several) => Some((
                recipient,
                several
                    .deferred
                    .get(&recipient)
                    .copied()
                    .unwrap_or_default(),
            )),
        })
    }

    /// The deferral of a recipient that is not final.
    pub(crate) fn deferred(&self, at: MessageRef, recipient: u32) -> Deferred {
        let alone = self.entry(at).map_or(Deferred(0), |entry| entry.deferred);
        self.several.get(&at.slot).map_or(alone, |several| {
            several
                .deferred
                .get(&recipient)
                .copied()
                .unwrap_or_default()
        })
    }

    /// Payload of a STATE record behind its sequence number: number of deferred, done bits, the deferred ones.
    /// None when there is nothing to say.
    pub(crate) fn encode_state(&self, at: MessageRef) -> Option<Vec<u8>> {
        let entry = self.entry(at)?;
        let alone = [(0, entry.deferred)];
        let (done, deferred): (&[u64], Vec<(u32, Deferred)>) = match self.several(at) {
            Some(several) => (
                &several.done,
                several.deferred.iter().map(|(r, d)| (*r, *d)).collect(),
            ),
            None => (
                &[0],
                alone
                    .into_iter()
                    .filter(|(_, deferred)| deferred.0 != 0)
                    .collect(),
            ),
        };
        if deferred.is_empty() && done.iter().all(|word| *word == 0) {
            return None;
        }
        let mut out = Vec::with_capacity(16 + done.len() * 8 + deferred.len() * 16);
        out.extend_from_slice(&at.seq.to_le_bytes());
        out.extend_from_slice(&(deferred.len() as u64).to_le_bytes());
        done.iter()
            .for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        for (recipient, deferred) in deferred {
            out.extend_from_slice(&u64::from(recipient).to_le_bytes());
            out.extend_from_slice(&deferred.0.to_le_bytes());
        }
        Some(out)
    }

    /// How many messages are alive, annexes not counted.
    pub(crate) fn messages(&self) -> u64 {
        (self.entries.len() - self.entries_free.len()) as u64 - self.annexes
    }
}

fn bit(words: &[u64], index: u32) -> bool {
    words
        .get(index as usize / 64)
        .is_some_and(|word| word >> (index % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOT: Spot = Spot {
        segment: 1,
        offset: 4096,
        len: 64,
    };

    #[test]
    fn entries_stay_small() {
        assert_eq!(size_of::<Packed>(), 32);
        assert_eq!(size_of::<MessageRef>(), 16);
    }

    #[test]
    fn a_stale_reference_finds_nothing() {
        let mut table = Table::default();
        let submission = table.submission_slot(7);
        let first = table.insert(1, submission, 1, SPOT);
        assert_eq!(table.finish(first, 0), Finished::Message(SPOT));
        assert_eq!(table.finish(first, 0), Finished::Nothing);
        let second = table.insert(2, submission, 1, SPOT);
        assert_eq!(second.slot(), first.slot());
        assert!(table.entry(first).is_none() && table.entry(second).is_some());
        assert_eq!(table.recipients_left, 1);
    }

    #[test]
    fn several_recipients_end_one_by_one() {
        let mut table = Table::default();
        let submission = table.submission_slot(7);
        let at = table.insert(1, submission, 130, SPOT);
        assert!(table.defer(at, 129, Deferred::new(3, 77)));
        assert_eq!(table.finish(at, 64), Finished::Recipient);
        assert_eq!(table.finish(at, 64), Finished::Nothing);
        assert!(!table.defer(at, 64, Deferred::new(1, 1)));
        assert_eq!(
            table.finish(at, 130),
            Finished::Nothing,
            "there is no such recipient"
        );
        let waiting: Vec<_> = table.waiting(at).collect();
        assert_eq!(
            (waiting.len(), waiting[128]),
            (129, (129, Deferred::new(3, 77)))
        );
        table.close(submission);
        assert_eq!(
            table.submissions().count(),
            1,
            "alive until its last message"
        );
        assert_eq!(table.kill(at), Some(SPOT));
        assert_eq!((table.submissions().count(), table.recipients_left), (0, 0));
    }

    #[test]
    fn an_annex_has_nobody_to_wait_for() {
        let mut table = Table::default();
        let submission = table.submission_slot(7);
        let at = table.insert(1, submission, 0, SPOT);
        assert_eq!((table.messages(), table.recipients_left), (0, 0));
        assert_eq!(table.finish(at, 0), Finished::Nothing);
        assert!(!table.defer(at, 0, Deferred::new(1, 1)) && !table.intend(at, 0, 1));
        assert_eq!(table.waiting(at).count(), 0);
        assert!(table.encode_state(at).is_none() && table.entry(at).is_some());
        assert_eq!(table.kill(at), Some(SPOT));
        let message = table.insert(2, submission, 1, SPOT);
        assert_eq!((message.slot(), table.messages()), (at.slot(), 1));
    }

    #[test]
    fn an_intent_lasts_until_the_next_mark() {
        let mut table = Table::default();
        let submission = table.submission_slot(7);
        let at = table.insert(1, submission, 3, SPOT);
        (0..3).for_each(|recipient| assert!(table.intend(at, recipient, 2)));
        table.restate_deferral(at, 0, Deferred::new(1, 5));
        assert_eq!(table.intents().count(), 3, "it came after that deferral");
        table.defer(at, 0, Deferred::new(2, 9));
        table.finish(at, 1);
        assert!(!table.intend(at, 1, 3), "final is final");
        assert_eq!(table.intents_of(at).collect::<Vec<_>>(), [(2, 2)]);
        table.kill(at);
        assert_eq!(table.intents().count(), 0);
    }

    #[test]
    fn deferral_packs() {
        let deferred = Deferred::new(u16::MAX, 1_800_000_000_000);
        assert_eq!(
            (deferred.attempts(), deferred.due_wall_ms()),
            (u16::MAX, 1_800_000_000_000)
        );
        let far = Deferred::new(1, u64::MAX);
        assert_eq!((far.attempts(), far.crashes()), (1, 0));
        for (crashes, told) in [(0, 0), (1, 1), (15, 15), (200, 15)] {
            let crashed = deferred.with_crashes(7).with_crashes(crashes);
            assert_eq!(crashed.crashes(), told);
            assert_eq!(crashed.with_crashes(0), deferred);
        }
    }
}
