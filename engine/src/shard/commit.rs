//! What waits for a batch to be durable, and what happens when it is.
//!
//! One batch is in flight per store at most; the next one forms meanwhile, so its size follows the
//! load (reliability: group commit, no timer). Three things hang on a batch: receipts that ingest
//! waits for, submissions that become live, and in-doubt slots whose mark is inside it.

use std::collections::VecDeque;

use hikyaku_spool::{Batch, Log, Slot};

use super::steady::Steady;
use super::{ConnKey, Effect, Now, Shard, gauge};
use crate::handoff::Receipt;
use crate::mail::id::SubmissionId;

/// One log and what hangs on its batches.
pub(super) struct Store {
    pub(super) log: Log,
    /// What ages and retries in it are counted in.
    pub(super) steady: Steady,
    /// In the order of the batches they wait for.
    waiting: VecDeque<(u64, OnDurable)>,
    /// Slots of marks that are not durable, with the batch that holds the mark: several batches may
    /// wait their turn.
    slots: VecDeque<(u64, Slot)>,
    /// Acceptances that ingest hears of when a batch behind theirs is durable.
    acknowledged: VecDeque<(u64, u32)>,
    /// Slots that open transactions will claim when their dot is due.
    pub(super) slots_reserved: u32,
    writing: bool,
    asked: bool,
    complained: bool,
}

/// What a durable batch sets off.
#[derive(Debug, Clone, Copy)]
pub(super) enum OnDurable {
    /// Tell ingest that a command of this submission is done.
    Receipt(u32),
    /// The submission is accepted: its messages are live, and ingest hears of it a batch later.
    Activate(u32),
    /// The end of a message's content may be sent on this connection.
    Intent(ConnKey),
    /// Every recipient that a control file ended has his final state.
    Ended(SubmissionId),
    /// The doubts that recovery found are settled by durable marks.
    ClearDoubts,
}

impl Store {
    pub(super) fn new(log: Log, steady: Steady) -> Self {
        Self {
            log,
            steady,
            waiting: VecDeque::new(),
            slots: VecDeque::new(),
            acknowledged: VecDeque::new(),
            slots_reserved: 0,
            writing: false,
            asked: false,
            complained: false,
        }
    }

    /// Runs `then` once everything appended so far is durable.
    pub(super) fn when_durable(&mut self, then: OnDurable) {
        self.waiting.push_back((self.log.forming_seq(), then));
    }

    /// A discarded submission is owed no receipts.
    pub(super) fn forget_receipts(&mut self, key: u32) {
        self.waiting
            .retain(|(_, then)| !matches!(then, OnDurable::Receipt(of) | OnDurable::Activate(of) if *of == key));
    }

    /// The mark that settles this slot was appended: free it when that is durable. A deferral for which
    /// there is no room is not appended, so there may be no batch to wait for, and none may ever come
    /// while all slots are taken.
    pub(super) fn free_when_durable(&mut self, slot: Slot) {
        let due = self.log.forming_seq();
        if due > self.log.durable_seq() {
            self.slots.push_back((due, slot));
        } else {
            self.log.in_doubt().free(slot);
        }
    }

    /// Whether `count` more recipients may be sent to without running out of in-doubt slots.
    pub(super) fn slots_allow(&mut self, count: u32) -> bool {
        self.log.in_doubt().available() >= (self.slots_reserved + count) as usize
    }

    pub(super) fn is_durable(&self) -> bool {
        !self.writing && self.log.durable_seq() >= self.log.forming_seq()
    }

    pub(super) fn take_batch(&mut self, now: Now) -> Option<Batch> {
        if self.writing {
            return None;
        }
        self.asked = false;
        let steady = self.steady.now(now).unix_millis();
        let batch = self.log.take_batch_at(now.wall.unix_millis(), steady)?;
        self.writing = true;
        Some(batch)
    }

    fn committed(&mut self, batch: Batch) {
        let seq = batch.seq;
        self.log.committed(batch);
        self.writing = false;
        while let Some(&(due, slot)) = self.slots.front() {
            if due > seq {
                break;
            }
            self.slots.pop_front();
            self.log.in_doubt().free(slot);
        }
    }
}

impl Shard {
    /// Something was appended to store `index`: have it written, once.
    pub(super) fn commit_soon(&mut self, index: usize) {
        let store = &mut self.stores[index];
        if !store.asked && !store.writing {
            store.asked = true;
            self.effects.push_back(Effect::Commit(index));
        }
    }

    fn tell_durable(&mut self, key: u32) {
        let submission = &self.submissions[key as usize];
        self.effects.push_back(Effect::Receipt(Receipt::Durable {
            submission: submission.id,
            log: submission.log,
        }));
    }

    /// `batch` of store `index` is written and on stable storage.
    pub fn on_committed(&mut self, now: Now, index: usize, batch: Batch) {
        let store = &mut self.stores[index];
        let seq = batch.seq;
        gauge::add(&self.gauge.commits, 1);
        gauge::add(&self.gauge.spool_bytes, batch.length as u64);
        store.committed(batch);
        let reclaimed = store.log.reclaim();
        if !reclaimed.damaged.is_empty() && !std::mem::replace(&mut store.complained, true) {
            // They pin their segment until their turn comes and they are held.
            tracing::error!(
                log = store.log.id(),
                messages = reclaimed.damaged.len(),
                "messages in the spool cannot be read: each is held when its turn comes"
            );
        }
        while let Some(&(due, then)) = self.stores[index].waiting.front() {
            if due > seq {
                break;
            }
            self.stores[index].waiting.pop_front();
            match then {
                OnDurable::Receipt(key) => self.tell_durable(key),
                OnDurable::Activate(key) => {
                    let store = &mut self.stores[index];
                    store.acknowledged.push_back((seq + 1, key));
                    store.log.append_nothing();
                    self.activate(now, key);
                }
                OnDurable::Intent(key) => self.on_intent(now, key),
                OnDurable::Ended(control) => self.on_ended(control),
                OnDurable::ClearDoubts => self.stores[index].log.clear_recovered_doubts(),
            }
        }
        // After a power cut the last batch alone cannot be told from one that was never finished.
        // The drop file goes only when a later one vouches for the batch that accepted it.
        while let Some(&(due, key)) = self.stores[index].acknowledged.front() {
            if due > seq {
                break;
            }
            self.stores[index].acknowledged.pop_front();
            self.tell_durable(key);
        }
        if !self.stores[index].is_durable() {
            self.commit_soon(index);
        }
        if self.blocked {
            self.blocked = false;
            self.effects.push_back(Effect::Room);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use hikyaku_spool::{Mark, Options, Spool, Verdict};

    use super::*;
    use crate::time::{Instant, WallTime};

    const NOW: Now = Now {
        mono: Instant::from_nanos(1),
        wall: WallTime::from_unix_millis(1),
    };

    #[test]
    fn a_slot_is_taken_until_the_batch_with_its_mark_is_durable() {
        let dir = tempfile::tempdir().expect("directory");
        let options = Options {
            segment_bytes: 4 << 20,
            message_bytes_max: 1 << 20,
            indoubt_slots: 4,
            allow_any_filesystem: true,
            ..Options::default()
        };
        let spool = Spool::open(dir.path(), &options).expect("spool");
        let (log, found) = spool.open_log(0, 1).expect("log");
        let mut store = Store::new(log, Steady::resume(NOW, &found.report));
        let commit = |store: &mut Store| {
            let batch = store.take_batch(NOW).expect("a batch waits");
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&*batch.path)
                .expect("open");
            file.write_all_at(&batch.bytes, batch.offset)
                .expect("write");
            store.committed(batch);
        };
        let message = store
            .log
            .append_message(1, 1, b"envelope", &[b"content"])
            .expect("room");
        store.log.append_accept(1, b"info").expect("room");
        commit(&mut store);
        let slot = store.log.in_doubt().claim(message, 0, 1).expect("free");
        // More than one batch's worth comes in while the reply is out, and then the mark.
        for _ in 0..3 {
            store
                .log
                .append_message(2, 1, b"envelope", &[&[b'x'; 700 << 10]])
                .expect("room");
        }
        let mark = Mark {
            message,
            recipient: 0,
            attempts: 1,
            verdict: Verdict::Delivered,
            code: 250,
        };
        store.log.append_mark(mark);
        store.free_when_durable(slot);
        let due = store.log.forming_seq();
        let mut commits = 0;
        while store.log.durable_seq() < due {
            assert_eq!(
                store.log.in_doubt().available(),
                3,
                "after {commits} batches"
            );
            commit(&mut store);
            commits += 1;
        }
        assert!(
            commits > 1,
            "the test needs a mark behind a batch that waits"
        );
        assert_eq!(store.log.in_doubt().available(), 4);
        // No room for a deferral, so nothing was appended: no batch will come that frees it.
        let slot = store.log.in_doubt().claim(message, 0, 1).expect("free");
        store.free_when_durable(slot);
        assert_eq!(store.log.in_doubt().available(), 4);
    }
}
