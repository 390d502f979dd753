//! Freeing segments: strictly oldest first, and only when nothing in them is needed any more.
//!
//! A mark lies behind the message it is about. So when the oldest segment goes, every mark in it is about a message that
//! is dead or was moved; moving restates the message's state, and a submission that still counts marks or its ACCEPT in
//! the segment is restated with its tally. The order is: append the copies, wait until they are durable, free.
//! A crash in between leaves a message twice; both copies have one sequence number, and recovery takes the later.
//!
//! A log that cannot grow is turned over when that makes room: every segment is emptied, whatever is alive in it, the one
//! that is being written, too. Each gives back at least what it takes, so a turn ends with all that was dead gone.

use crate::faults::point;
use crate::files::keep;
use crate::log::{Log, Move, Moved, Room};
use crate::mark::Tally;
use crate::pool::Freed;
use crate::record::{self, FLAG_ACCEPTED, FLAG_RESTATED, Head, Kind, MessageHead};
use crate::segment::{BLOCK, Segment};
use crate::table::MessageRef;

/// Copied per call, so that a call stays short.
const MOVE_BYTES_MAX: u64 = 1 << 20;
/// With fewer segments it does not matter what they pin.
const PINNED_SEGMENTS_MIN: usize = 3;

/// What a call of `reclaim` did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments that were given back.
    pub freed_segments: u32,
    /// Messages that were copied forward. Their references stay valid.
    pub moved_messages: u32,
    /// Messages that could not be read when they were to be moved: append a mark `Held` for each of their recipients. Until
    /// then they are alive and unreadable, and keep no segment: what is known of them was moved.
    pub damaged: Vec<MessageRef>,
    /// There is more to do: call again after the next commit.
    pub more: bool,
}

/// The oldest segment being emptied.
#[derive(Debug, Default)]
pub(crate) struct Evacuation {
    /// Next of its messages and of its anchored submissions to look at.
    slot: usize,
    anchored: usize,
    /// Everything needed is copied once this batch is durable.
    until: Option<u64>,
}

enum Step {
    Free,
    Wait,
}

impl Log {
    /// Frees what can be freed, copies forward what pins too much. Call it after commits; it is cheap when there is
    /// nothing to do.
    pub fn reclaim(&mut self) -> Reclaimed {
        let mut done = Reclaimed::default();
        self.pool.poll();
        self.top_up();
        loop {
            let turning = self.is_turning();
            if self.evacuation.is_none() {
                // The segment that is being written is the last to be turned over.
                if turning && self.segments.len() == 1 && !self.roll() {
                    return done;
                }
                if !(turning || self.worth_emptying()) {
                    return done;
                }
                self.evacuation = Some(Evacuation::default());
            }
            match self.evacuate(&mut done) {
                Step::Free => self.free_oldest(&mut done),
                Step::Wait => {
                    done.more = self.forming_seq() > self.durable_seq();
                    return done;
                }
            }
        }
    }

    /// Whether all segments are being emptied, or begin to be: when marks wait for room or messages would, the log cannot
    /// grow, and enough in it is dead.
    fn is_turning(&mut self) -> bool {
        let Some((oldest, newest)) = self.segments.front().zip(self.segments.back()) else {
            return false;
        };
        let (oldest, newest) = (oldest.id, newest.id);
        let waiting = self.is_waiting();
        if !waiting && self.room() == Room::Open {
            self.rotation = None;
            return false;
        }
        if self.rotation.is_some_and(|last| oldest <= last) {
            return true;
        }
        let (mut dead, mut live) = (0, 0);
        for segment in &self.segments {
            live += segment.account.live_bytes;
            dead += segment
                .tail
                .saturating_sub(BLOCK + segment.account.live_bytes);
        }
        let gain = dead.min(self.dead_bytes - self.dead_bytes_before);
        let usable = self.usable();
        // Little is copied for much: that is worth it before it is needed.
        let cheap = gain >= usable / 4 && gain >= live / 4;
        let worth = if waiting {
            cheap || self.pool.error().is_some()
        } else {
            let needed = gain >= usable / 16 && self.slack() < -i128::from(usable / 8);
            self.is_at_its_bound() && (cheap || needed)
        };
        self.rotation = worth.then_some(newest);
        if worth {
            self.dead_bytes_before = self.dead_bytes;
        }
        worth
    }

    fn worth_emptying(&self) -> bool {
        // The newest segment is being written.
        let Some(oldest) = self.segments.front().filter(|_| self.segments.len() > 1) else {
            return false;
        };
        let (live, size) = (oldest.account.live_bytes, oldest.bytes());
        let pinned = self.segments.len() > PINNED_SEGMENTS_MIN && live < size / 4;
        let pressed = self.pool.ready() == 0 && live < size / 2;
        // Copying must leave what is promised to marks.
        let affordable = self.slack() + 2 * i128::from(self.usable()) > i128::from(live + size / 4);
        oldest.account.live_messages == 0 || (affordable && (pinned || pressed))
    }

    fn evacuate(&mut self, done: &mut Reclaimed) -> Step {
        let Some(mut state) = self.evacuation.take() else {
            return Step::Wait;
        };
        let step = self.evacuate_step(&mut state, done);
        self.evacuation = Some(state);
        step
    }

    fn evacuate_step(&mut self, state: &mut Evacuation, done: &mut Reclaimed) -> Step {
        let Some(oldest) = self.segments.front() else {
            return Step::Wait;
        };
        let id = oldest.id;
        let mut budget = MOVE_BYTES_MAX;
        while let Some(slot) = self.segments[0].account.slots.get(state.slot).copied() {
            let found = self
                .table
                .in_slot(slot)
                .filter(|(_, entry)| entry.spot.segment == id);
            if let Some((at, spot)) = found.map(|(at, entry)| (at, entry.spot)) {
                // Sealed in memory, its last batch on its way: there is nothing to read yet, and nothing is damaged.
                if !self.is_durable(spot) {
                    return Step::Wait;
                }
                let len = u64::from(spot.len);
                if len > budget && budget < MOVE_BYTES_MAX {
                    return Step::Wait;
                }
                match self.move_message(at) {
                    Some(true) => done.moved_messages += 1,
                    Some(false) => done.damaged.push(at),
                    None => return Step::Wait,
                }
                budget = budget.saturating_sub(len);
            }
            state.slot += 1;
        }
        if self.segments[0].account.live_messages > 0 {
            return Step::Wait;
        }
        while let Some(of) = self.segments[0]
            .account
            .anchored
            .get(state.anchored)
            .copied()
        {
            if self.table.submission(of).anchor == Some(id) && !self.restate(of) {
                return Step::Wait;
            }
            state.anchored += 1;
        }
        // The last final marks of its messages may not be durable yet.
        let until = match state.until {
            Some(until) => until,
            None => {
                self.drain_all();
                *state.until.insert(self.forming_seq())
            }
        };
        if self.durable_seq() >= until {
            Step::Free
        } else {
            Step::Wait
        }
    }

    /// Appends the message again, with the state of its recipients. None when there is no room, false when it cannot be
    /// read: its place is then taken by a head that says so. Left where it is it would keep its segment, and with that,
    /// where the log cannot grow, the room of all that waits, until its turn comes, which may need that room.
    fn move_message(&mut self, at: MessageRef) -> Option<bool> {
        let Some(entry) = self.table.entry(at) else {
            return Some(true);
        };
        let (spot, recipients, of) = (entry.spot, entry.recipients, entry.submission);
        let submission = *self.table.submission(of);
        let whole = self.record(spot).ok().filter(|record| {
            MessageHead::decode(record.payload).is_some_and(|(head, ..)| head.seq == at.seq())
        });
        let is_whole = whole.is_some();
        let known = submission.accepted || whole.is_some_and(|r| r.flags & FLAG_ACCEPTED != 0);
        let flags = FLAG_RESTATED | if known { FLAG_ACCEPTED } else { 0 };
        // One copy more than at append: the map cannot stay borrowed while the batch is changed. Moving is rare.
        let payload = match whole {
            Some(record) => record.payload.to_vec(),
            None => MessageHead::lost(at.seq(), submission.id).to_vec(),
        };
        let head = Head {
            flags,
            extra: recipients,
            ..Head::new(Kind::Message)
        };
        let state = self.table.encode_state(at);
        let spot = self.put_copy(head, &[&payload], &[])?;
        if let Some(state) = state {
            // Without room for the state the copy is of no use: it is left as garbage and made again later. The copy that
            // lies there is harmless, because the state's marks are still in the log.
            self.put_copy(
                Head {
                    extra: recipients,
                    ..Head::new(Kind::State)
                },
                &[&state],
                &[],
            )?;
        }
        // Behind the copy, as it was behind the message: what is in the segments between may be freed before it.
        let intents: Vec<(u32, u16)> = self.table.intents_of(at).collect();
        for (recipient, attempt) in intents {
            self.put_intent(at.seq(), recipient, attempt);
        }
        let batch_seq = self.forming_seq();
        self.moves.push_back(Move {
            batch_seq,
            what: Moved::Message(at),
            spot,
        });
        point("spool.moved");
        Some(is_whole)
    }

    /// Appends what the log must not forget about a submission. False when there is no room, or its ACCEPT is not readable
    /// yet.
    fn restate(&mut self, of: u32) -> bool {
        let submission = *self.table.submission(of);
        let id = submission.id;
        let info = match (submission.accepted, submission.accept) {
            // Appended, and not durable yet.
            (true, None)
                if self
                    .moves
                    .iter()
                    .any(|m| matches!(m.what, Moved::Accept(of) if of == id)) =>
            {
                return false;
            }
            (true, None) => Vec::new(),
            (true, Some(spot)) => match self.record(spot) {
                Ok(record) => record
                    .payload
                    .get(16 + Tally::BYTES..)
                    .unwrap_or_default()
                    .to_vec(),
                // Its info is lost, the fact that it was accepted is not.
                Err(_) => Vec::new(),
            },
            (false, _) => Vec::new(),
        };
        let flags = FLAG_RESTATED
            | if submission.accepted {
                FLAG_ACCEPTED
            } else {
                0
            };
        let head = Head {
            flags,
            ..Head::new(Kind::Accept)
        };
        let Some(spot) = self.put_copy(
            head,
            &[&id.to_le_bytes(), &submission.tally.encode(), &info],
            &[],
        ) else {
            return false;
        };
        self.table.submission_mut(of).anchor = None;
        self.anchor(of, spot.segment);
        if submission.accepted {
            self.moves.push_back(Move {
                batch_seq: self.flush.newest_seq(),
                what: Moved::Accept(id),
                spot,
            });
        }
        true
    }

    fn free_oldest(&mut self, done: &mut Reclaimed) {
        self.evacuation = None;
        if let Some(Segment {
            path,
            file,
            map,
            header,
            damaged,
            ..
        }) = self.segments.pop_front()
        {
            if damaged.get()
                && let Some(spool) = self.dir.parent()
            {
                // Kept for people; a failure is no reason to keep the segment, too.
                let _ = keep(&spool.join("quarantine"), &path, &header, self.id, &[]);
            }
            point("spool.before-free");
            let usable = map.bytes().len() as u64 == self.options.segment_bytes;
            drop(map);
            let wanted = self.spares_wanted();
            let freed = Freed {
                path: path.to_path_buf(),
                file,
                header,
            };
            self.pool.give_back(freed, usable, wanted);
            done.freed_segments += 1;
        }
    }
}

/// Payload of an ACCEPT: the submission, its tally at that point, the engine's own bytes.
pub(crate) fn decode_accept(payload: &[u8]) -> Option<(u128, Tally)> {
    let (id, rest) = payload.split_at_checked(16)?;
    let tally = rest.get(..Tally::BYTES)?;
    Some((record::u128_at(id, 0), Tally::decode(tally)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Spool};

    /// Found by the crash harness: a segment that was sealed with a batch still to be written, while no spare was ready.
    #[test]
    fn a_message_that_is_not_written_yet_is_not_damaged() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().expect("directory");
        let options = Options {
            segment_bytes: 256 << 10,
            message_bytes_max: 100 << 10,
            indoubt_slots: 4,
            spares_inline: true,
            allow_any_filesystem: true,
            ..Options::default()
        };
        let spool = Spool::open(dir.path(), &options).expect("spool");
        let (mut log, _) = spool.open_log(0, 1).expect("log");
        let mut appended = 0;
        while log.segments() < 2 {
            log.append_message(1, 1, b"envelope", &[&[b'x'; 50 << 10]])
                .expect("room");
            appended += 1;
        }
        log.append_accept(1, b"info").expect("room");
        let mut done = Reclaimed::default();
        log.evacuation = Some(Evacuation::default());
        log.evacuate(&mut done);
        assert_eq!(done, Reclaimed::default(), "nothing can be read yet");
        while let Some(batch) = log.take_batch(1) {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&*batch.path)
                .expect("segment");
            file.write_all_at(&batch.bytes, batch.offset)
                .expect("write");
            log.committed(batch);
        }
        log.evacuate(&mut done);
        assert_eq!(done.damaged, []);
        assert_eq!(done.moved_messages, appended - 1, "all but the newest");
        assert!(!log.segments[0].damaged.get());
    }
}
