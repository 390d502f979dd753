//! Signatures: where several are cheaper together, openings are collected and signed as a batch.
//!
//! A content that is due waits for its signature as it waits for its intent in strict mode: the
//! session goes on when [`Shard::sign_waiting`] has made it. That is when a batch is full, or when the
//! driver comes back to [`Effect::Sign`] and everything that was ready before has had its turn; a
//! connection alone waits for nobody longer than that.

use std::collections::VecDeque;

use hikyaku_spool::MessageRef;

use super::transaction::Transaction;
use super::{ConnKey, Effect, Gauge, Now, Shard, gauge};
use crate::signing::{BodyHash, Signer, Unsigned};
use crate::smtp::Session;

/// Openings that wait for their signatures.
#[derive(Debug, Default)]
pub(super) struct Signatures {
    waiting: Vec<(ConnKey, Option<Stored>)>,
    /// Kept for their memory.
    #[expect(
        clippy::vec_box,
        reason = "they move in and out of transactions as they are"
    )]
    spare: Vec<Box<Unsigned>>,
    /// The fields of stored messages that go to other recipients, too: the latest first.
    made: VecDeque<(Stored, Box<[u8]>)>,
}

/// A stored message: index of its store, and its number there, which never repeats.
pub(super) type Stored = (usize, u64);

pub(super) fn stored(store: usize, at: MessageRef) -> Stored {
    (store, at.seq())
}

/// What is to be signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) content: &'a [u8],
    /// Seconds since 1970.
    pub(super) signed_at: u64,
    /// Where the body was hashed before.
    pub(super) body_hash: Option<BodyHash>,
    /// Where the same content goes to others in other transactions: it is signed once for them all, as
    /// far as [`MADE_MAX`] goes.
    pub(super) again: Option<Stored>,
}

/// What became of the wish for a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signed {
    /// It is there, or there will be none.
    Now,
    /// The content waits for it.
    Later,
    /// As before, and the batch is full.
    Full,
}

impl Signatures {
    /// Has the content of the transaction on `key` signed.
    pub(super) fn ask(
        &mut self,
        (signer, gauge): (&Signer, &Gauge),
        key: ConnKey,
        wanted: Wanted<'_>,
        prefix: &mut Vec<u8>,
        unsigned: &mut Option<Box<Unsigned>>,
    ) -> Signed {
        if let Some(again) = wanted.again
            && let Some((_, fields)) = self.made.iter().find(|(of, _)| *of == again)
        {
            prefix.extend_from_slice(fields);
            gauge::add(&gauge.signatures_repeated, 1);
            return Signed::Now;
        }
        let mut prepared = self.spare.pop().unwrap_or_default();
        let Wanted {
            content,
            signed_at,
            body_hash,
            again,
        } = wanted;
        match signer.prepare(content, body_hash, signed_at, &mut prepared) {
            Ok(1..) => {}
            Ok(0) => {
                self.spare.push(prepared);
                return Signed::Now;
            }
            Err(error) => {
                tracing::warn!(%error, "message goes out unsigned");
                self.spare.push(prepared);
                return Signed::Now;
            }
        }
        let width = signer.batch_width();
        if width <= 1 {
            self.finish((signer, gauge), prepared, again, prefix);
            return Signed::Now;
        }
        *unsigned = Some(prepared);
        self.waiting.push((key, again));
        if self.waiting.len() >= width {
            Signed::Full
        } else {
            Signed::Later
        }
    }

    /// Writes the fields of a message, making what signatures are missing.
    fn finish(
        &mut self,
        (signer, gauge): (&Signer, &Gauge),
        unsigned: Box<Unsigned>,
        again: Option<Stored>,
        prefix: &mut Vec<u8>,
    ) {
        match signer.finish(&unsigned, prefix) {
            Ok(count) => {
                gauge::add(&gauge.signatures, count as u64);
                if let Some(again) = again {
                    self.made.truncate(MADE_MAX - 1);
                    self.made.push_front((again, prefix.as_slice().into()));
                }
            }
            Err(error) => tracing::warn!(%error, "message goes out unsigned"),
        }
        self.spare.push(unsigned);
    }

    /// Whether the one that was asked for last is alone.
    pub(super) const fn is_first(&self) -> bool {
        self.waiting.len() == 1
    }
}

impl Shard {
    /// Makes the signatures that contents wait for, and has these go on.
    pub fn sign_waiting(&mut self, now: Now) {
        let waiting = std::mem::take(&mut self.signatures.waiting);
        let mut taken = Vec::with_capacity(waiting.len());
        for (key, again) in waiting {
            // One that closed meanwhile, or was told that nobody wants the content, has none.
            let unsigned = self.opened(key).and_then(|one| one.unsigned.take());
            taken.extend(unsigned.map(|unsigned| (key, again, unsigned)));
        }
        let config = std::sync::Arc::clone(&self.config);
        let Some(signer) = &config.signer else { return };
        let batched = signer.sign_batch(taken.iter_mut().map(|(_, _, unsigned)| &mut **unsigned));
        gauge::add(&self.gauge.signature_batches, batched.batches);
        gauge::add(&self.gauge.signatures_batched, batched.signatures);
        for (key, again, unsigned) in taken {
            let Some(mut prefix) = self
                .opened(key)
                .map(|transaction| std::mem::take(&mut transaction.prefix))
            else {
                self.signatures.spare.push(unsigned);
                continue;
            };
            let gauge = std::sync::Arc::clone(&self.gauge);
            let with = (signer, &*gauge);
            self.signatures.finish(with, unsigned, again, &mut prefix);
            if let Some(transaction) = self.opened(key) {
                transaction.prefix = prefix;
            }
            self.resume_content(now, key);
        }
    }

    fn opened(&mut self, key: ConnKey) -> Option<&mut Transaction> {
        self.conn(key)?.transactions.back_mut()
    }

    /// What the content of this connection waited for is there.
    pub(super) fn resume_content(&mut self, now: Now, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        // While its driver writes, whoever hears of the end of that goes on.
        let wants = conn.session.as_ref().is_some_and(Session::wants_content);
        if wants && !conn.writing {
            self.push_body(now, key);
            self.effects.push_back(Effect::Wake(key));
        }
    }
}

/// Messages whose fields are kept for their next recipients, some 700 octets each.
const MADE_MAX: usize = 64;
