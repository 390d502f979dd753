//! From messages that were read to parcels for the shards, and the end of a file.
//!
//! A message goes to the shards of its recipients' domains, in parcels of so many bytes. A file that is one parcel is
//! accepted together with it, in one commit; any other once all that was staged of it is durable.

use std::sync::Arc;

use hikyaku_spool::faults::point;

use super::Ingest;
use super::read::Reading;
use crate::handoff::{Acceptance, Command, JobRows, Keyed};
use crate::ingest::{NewMessage, Summary};

impl Ingest {
    /// Puts a message into the parcels of its recipients' shards.
    pub(super) fn assign(&mut self, reading: &mut Reading, mut message: NewMessage, limit: usize) {
        let recipients = message.envelope.recipients.iter();
        let mut of_recipient = recipients.map(|recipient| self.outlets.for_recipient(recipient));
        let first = of_recipient.next().unwrap_or(0);
        if of_recipient.all(|outlet| outlet == first) {
            return self.add(reading, first, message, limit);
        }
        let recipients = std::mem::take(&mut message.envelope.recipients);
        let mut parts: Vec<Vec<Box<str>>> = vec![Vec::new(); self.outlets.count()];
        for recipient in recipients {
            parts[self.outlets.for_recipient(&recipient)].push(recipient);
        }
        for (outlet, recipients) in parts
            .into_iter()
            .enumerate()
            .filter(|(_, part)| !part.is_empty())
        {
            let mut part = message.clone();
            part.envelope.recipients = recipients;
            self.add(reading, outlet, part, limit);
        }
    }

    pub(super) fn add(
        &mut self,
        reading: &mut Reading,
        outlet: usize,
        message: NewMessage,
        limit: usize,
    ) {
        let (messages, bytes) = &mut reading.parcels[outlet];
        *bytes += message.content.len();
        messages.push(message);
        if *bytes >= limit {
            *bytes = 0;
            let messages = std::mem::take(messages);
            self.stage(reading, outlet, messages);
        }
    }

    pub(super) fn stage(
        &mut self,
        reading: &mut Reading,
        outlet: usize,
        messages: Vec<NewMessage>,
    ) {
        let submission = reading.claimed.submission;
        reading.staged = true;
        self.hand(&messages);
        self.desk.staged(submission, self.outlets.log(outlet));
        self.outlets.push(
            outlet,
            Command::Stage {
                submission,
                messages,
                accept: None,
            },
        );
        point("ingest.staged");
    }

    /// The file was read to its end: give away what is left, and ask for its acceptance.
    pub(super) fn finish(
        &mut self,
        reading: Reading,
        summary: &Summary,
        keyed: Option<Keyed>,
        job: Option<JobRows>,
    ) {
        let Some(mut reading) = self.unless_known(reading, keyed) else {
            return;
        };
        if let Some(keyed) = keyed {
            self.in_flight.insert(keyed.key, reading.claimed.submission);
        }
        point("ingest.read");
        let submission = reading.claimed.submission;
        let acceptance = Acceptance {
            file: reading.claimed.name.clone(),
            accepted_ms: reading.received.unix_millis(),
            messages: summary.messages,
            recipients: summary.recipients - reading.suppressed,
            suppressed: reading.suppressed,
            logs: Vec::new(),
            keyed: keyed.map(Box::new),
            job: job.map(Box::new),
        };
        if acceptance.recipients == 0 && reading.suppressed > 0 {
            return self.finish_without_anybody(&reading, &acceptance);
        }
        let mut parcels: Vec<(usize, Vec<NewMessage>)> = std::mem::take(&mut reading.parcels)
            .into_iter()
            .enumerate()
            .filter(|(_, (messages, _))| !messages.is_empty())
            .map(|(outlet, (messages, _))| (outlet, messages))
            .collect();
        if !reading.staged && parcels.len() == 1 {
            let (outlet, messages) = parcels.remove(0);
            let log = self.outlets.log(outlet);
            let acceptance = Arc::new(Acceptance {
                logs: vec![log],
                ..acceptance
            });
            self.desk.read_whole_in_one(submission, log, &acceptance);
            self.hand(&messages);
            self.files.insert(submission, reading.claimed);
            self.outlets.push(
                outlet,
                Command::Stage {
                    submission,
                    messages,
                    accept: Some(acceptance),
                },
            );
            return;
        }
        for (outlet, messages) in parcels {
            self.stage(&mut reading, outlet, messages);
        }
        self.files.insert(submission, reading.claimed);
        if let Some(step) = self.desk.read_whole(submission, acceptance) {
            self.carry_out(step);
        }
    }

    pub(super) fn hand(&mut self, messages: &[NewMessage]) {
        let Some(admission) = &mut self.admission else {
            return;
        };
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (mut recipients, mut bytes) = (0, 0);
        for message in messages {
            recipients += count(message.envelope.recipients.len());
            bytes += count(message.content.len());
        }
        admission.hand(recipients, bytes);
    }
}

/// Messages go to a shard when so many bytes of one file are together.
pub(super) const PARCEL_BYTES: usize = 256 << 10;
