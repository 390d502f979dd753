//! Suppressed recipients are left out before work is spent on them.
//!
//! This look saves space in the spool and is what a receipt's `suppressed` counts; the look that decides is
//! the shard's, right before sending. So a list that cannot be read stops nobody here.

use hikyaku_spool::suppress::Scope;

use super::read::Reading;
use super::{Ingest, clock};
use crate::handoff::Acceptance;
use crate::ingest::NewMessage;
use crate::ingest::chunks::RowTerms;
use crate::io::dropdir::Receipt;
use crate::job::Job;
use crate::job::rows::Row;
use crate::mail::envelope::domain_of;
use crate::mail::mailing::Mailing;

/// Who sends the messages of a job, and to which list.
pub(super) fn mailing_of(job: &Job) -> Mailing {
    Mailing {
        sender: Some(domain_of(&job.from.address).to_ascii_lowercase().into()),
        list: job
            .list
            .as_ref()
            .map(|list| list.id.to_ascii_lowercase().into()),
    }
}

impl Ingest {
    fn asks_for_suppressed(&mut self) -> bool {
        let Some(list) = &self.suppressed else {
            return false;
        };
        match list.is_empty(clock::now().as_nanos()) {
            Ok(empty) => {
                self.relieved("suppressions");
                !empty
            }
            Err(error) => {
                if self.complains("suppressions") {
                    tracing::error!(%error, "the suppression list cannot be read: what is accepted waits in the spool");
                }
                false
            }
        }
    }

    /// Which of these addresses are suppressed.
    fn suppressed_of<'a>(
        &mut self,
        addresses: impl IntoIterator<Item = &'a str>,
        scopes: &[Scope<'_>],
    ) -> Vec<bool> {
        let found = self.suppressed.as_mut().and_then(|list| {
            // What cannot be read here is met again in the shard.
            list.check(addresses, scopes).ok()
        });
        found
            .unwrap_or_default()
            .iter()
            .map(Option::is_some)
            .collect()
    }

    /// Takes suppressed recipients out of messages, and messages out of which nobody is left.
    pub(super) fn leave_out(&mut self, reading: &mut Reading, messages: &mut Vec<NewMessage>) {
        if messages.is_empty() || !self.asks_for_suppressed() {
            return;
        }
        messages.retain_mut(|message| {
            let mailing = Mailing::of_content(message.content.as_slice());
            let recipients = &mut message.envelope.recipients;
            let addresses = recipients.iter().map(|address| &**address);
            let found = self.suppressed_of(addresses, &mailing.scopes());
            reading.suppressed += retain_others(recipients, &found);
            !recipients.is_empty()
        });
    }

    /// Takes suppressed rows out; tells how many there were.
    pub(super) fn leave_out_rows(
        &mut self,
        mailing: &Mailing,
        rows: &mut Vec<(Row, RowTerms)>,
    ) -> u64 {
        if rows.is_empty() || !self.asks_for_suppressed() {
            return 0;
        }
        let addresses = rows.iter().map(|(row, _)| row.recipient.as_str());
        let found = self.suppressed_of(addresses, &mailing.scopes());
        retain_others(rows, &found)
    }

    /// A valid file of which nobody is left: nothing of it gets into the spool, and its receipt says so.
    pub(super) fn finish_without_anybody(&mut self, reading: &Reading, acceptance: &Acceptance) {
        let submission = reading.claimed.submission;
        let receipt = super::settle::accepted_receipt(submission, acceptance);
        let receipt: Receipt = receipt.into_final(clock::wall());
        if let Err(error) = self.dir.write_receipt(&acceptance.file, &receipt) {
            // It stays claimed: its receipt is all that it has come for.
            tracing::warn!(file = acceptance.file, %error, "the receipt cannot be written; tried again later");
            self.stray = true;
            if let Some(keyed) = acceptance.keyed.as_deref() {
                // Read again, it is the first under its key again.
                self.in_flight.remove(&keyed.key);
            }
            return;
        }
        if let Some(keyed) = acceptance.keyed.as_deref() {
            self.key_accepted(submission, *keyed, acceptance);
            // No submission will be closed, which is what keys are written with otherwise.
            if let Err(error) = self.keys.flush(clock::wall()) {
                tracing::warn!(file = acceptance.file, %error, "its idempotency key is not on disk yet");
            }
        }
        self.state
            .accepted
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.remove(&reading.claimed);
    }
}

fn retain_others<T>(of: &mut Vec<T>, suppressed: &[bool]) -> u64 {
    let before = of.len();
    let mut index = 0;
    of.retain(|_| {
        index += 1;
        !suppressed.get(index - 1).is_some_and(|found| *found)
    });
    u64::try_from(before - of.len()).unwrap_or(u64::MAX)
}
