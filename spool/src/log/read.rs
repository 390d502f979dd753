//! What a log has: messages and submissions read through its maps, and what is alive.
//!
//! Nothing that is not durable is shown. What does not pass its checksum is an error that names the place, and marks its
//! segment as damaged.

use super::Log;
use crate::error::SpoolError;
use crate::mark::Tally;
use crate::record::{self, MessageHead};
use crate::table::{Entry, MessageRef, Spot, Table};

/// A message as it lies in the spool.
#[derive(Debug, Clone, Copy)]
pub struct MessageView<'a> {
    /// Its number in its log.
    pub seq: u64,
    /// The submission it belongs to.
    pub submission: u128,
    /// How many recipients it was appended with.
    pub recipients: u32,
    /// As given to `append_message`.
    pub envelope: &'a [u8],
    /// As given to `append_message`, in one piece.
    pub content: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// The message that an entry of the table stands for. None when its record holds anything else.
    pub(crate) fn decode(record: &record::Record<'a>, entry: Entry) -> Option<Self> {
        let (head, envelope, content) = MessageHead::decode(record.payload)?;
        (head.seq == entry.seq).then_some(Self {
            seq: head.seq,
            submission: head.submission,
            recipients: entry.recipients,
            envelope,
            content,
        })
    }
}

/// A message with a recipient that is not final.
#[derive(Debug, Clone, Copy)]
pub struct LiveMessage<'a> {
    /// Its handle.
    pub at: MessageRef,
    /// The submission it belongs to.
    pub submission: u128,
    /// How many recipients it was appended with.
    pub recipients: u32,
    /// Whether this log knows that the submission was accepted; another log may know more.
    pub accepted: bool,
    table: &'a Table,
}

/// A recipient that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Counted from 0.
    pub recipient: u32,
    /// Attempts made so far, as far as their deferrals were written.
    pub attempts: u16,
    /// When the next attempt is due, milliseconds since 1970; 0: at once.
    pub due_wall_ms: u64,
}

impl<'a> LiveMessage<'a> {
    /// What is alive in a slot of the table.
    pub(crate) fn in_slot(table: &'a Table, slot: u32) -> Option<LiveMessage<'a>> {
        let (at, entry) = table.in_slot(slot)?;
        let of = table.submission(entry.submission);
        Some(LiveMessage {
            at,
            submission: of.id,
            recipients: entry.recipients,
            accepted: of.accepted,
            table,
        })
    }

    /// Its recipients without a final mark, in order.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> + use<'a> {
        self.table
            .waiting(self.at)
            .map(|(recipient, deferred)| Waiting {
                recipient,
                attempts: deferred.attempts(),
                due_wall_ms: deferred.due_wall_ms(),
            })
    }
}

impl Log {
    /// The message, read through the map; its checksum is checked at each call.
    pub fn message(&self, at: MessageRef) -> Result<MessageView<'_>, SpoolError> {
        self.view(at, Self::record)
    }

    /// The same message once more, within the use that [`Self::message`] found it whole for: its
    /// checksum is not computed again.
    ///
    /// # Errors
    /// As [`Self::message`], but what changed in between is only noticed where the record's form is broken.
    pub fn message_again(&self, at: MessageRef) -> Result<MessageView<'_>, SpoolError> {
        self.view(at, Self::record_unchecked)
    }

    /// The envelope of a message, for filling the queue: its content is neither read nor checked, the envelope is.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub fn envelope(&self, at: MessageRef) -> Result<&[u8], SpoolError> {
        let found = self
            .table
            .entry(at)
            .filter(|entry| self.is_durable(entry.spot))
            .and_then(|entry| self.record_unchecked(entry.spot).ok())
            .and_then(|record| MessageHead::checked_envelope(record.payload))
            .filter(|(head, _)| head.seq == at.seq());
        // An earlier release wrote no checksum of its own for the envelope; and what is wrong is said there.
        match found {
            Some((_, envelope)) => Ok(envelope),
            None => self.message(at).map(|view| view.envelope),
        }
    }

    fn view<'a>(
        &'a self,
        at: MessageRef,
        read: fn(&'a Self, Spot) -> Result<record::Record<'a>, SpoolError>,
    ) -> Result<MessageView<'a>, SpoolError> {
        let entry = self
            .table
            .entry(at)
            .ok_or(SpoolError::Gone { seq: at.seq() })?;
        let spot = entry.spot;
        if !self.is_durable(spot) {
            return Err(SpoolError::NotCommitted { seq: entry.seq });
        }
        let record = read(self, spot)?;
        match MessageView::decode(&record, entry) {
            Some(message) => Ok(message),
            // What was damaged is another segment, of which a copy was kept.
            None if MessageHead::is_lost(record.payload) => Err(SpoolError::Corrupt {
                path: self.segment(spot.segment).path.to_path_buf(),
                offset: spot.offset.into(),
            }),
            None => Err(self.corrupt(spot)),
        }
    }

    /// The submission that a live message belongs to.
    pub fn submission_of(&self, at: MessageRef) -> Option<u128> {
        let entry = self.table.entry(at)?;
        Some(self.table.submission(entry.submission).id)
    }

    /// What `append_accept` was given. None for an unknown submission, or one whose ACCEPT is not durable.
    pub fn submission_info(&self, submission: u128) -> Result<Option<&[u8]>, SpoolError> {
        let of = self.table.find_submission(submission);
        let Some(spot) = of.and_then(|of| self.table.submission(of).accept) else {
            return Ok(None);
        };
        let record = self.record(spot)?;
        record
            .payload
            .get(16 + Tally::BYTES..)
            .map(Some)
            .ok_or_else(|| self.corrupt(spot))
    }

    /// How the submission's recipients in this log ended so far.
    pub fn tally(&self, submission: u128) -> Tally {
        self.table
            .find_submission(submission)
            .map_or(Tally::default(), |of| self.table.submission(of).tally)
    }

    /// All messages with a recipient that is not final, in no particular order: for filling the queue after `open_log`.
    /// Costs no memory.
    pub fn live_messages(&self) -> impl Iterator<Item = LiveMessage<'_>> {
        (0..self.table.slots()).filter_map(|slot| LiveMessage::in_slot(&self.table, slot))
    }

    pub(crate) fn record(&self, spot: Spot) -> Result<record::Record<'_>, SpoolError> {
        let segment = self.segment(spot.segment);
        let start = spot.offset as usize;
        let bytes = segment.map.bytes().get(start..start + spot.len as usize);
        let record =
            bytes.and_then(|bytes| record::checked(bytes, segment.seed, u64::from(spot.offset)));
        record.ok_or_else(|| self.corrupt(spot))
    }

    fn record_unchecked(&self, spot: Spot) -> Result<record::Record<'_>, SpoolError> {
        let start = spot.offset as usize;
        let bytes = self
            .segment(spot.segment)
            .map
            .bytes()
            .get(start..start + spot.len as usize);
        bytes
            .and_then(record::parse)
            .ok_or_else(|| self.corrupt(spot))
    }

    fn corrupt(&self, spot: Spot) -> SpoolError {
        self.segment(spot.segment).damaged.set(true);
        SpoolError::Corrupt {
            path: self.segment(spot.segment).path.to_path_buf(),
            offset: spot.offset.into(),
        }
    }
}
