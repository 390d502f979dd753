//! Signatures: where several are cheaper together, openings are collected and signed as a batch.
//!
//! A content that is due waits for its signature as it waits for its intent in strict mode: the
//! session goes on when [`Shard::sign_waiting`] has made it. That is when a batch is full, or when the
//! driver comes back to [`Effect::Sign`] and everything that was ready before has had its turn; a
//! connection alone waits for nobody longer than that.

use super::transaction::Transaction;
use super::{ConnKey, Effect, Now, Shard};
use crate::signing::{Signer, Unsigned};
use crate::smtp::Session;

/// Openings that wait for their signatures.
#[derive(Debug, Default)]
pub(super) struct Signatures {
    waiting: Vec<ConnKey>,
    /// Kept for their memory.
    #[expect(
        clippy::vec_box,
        reason = "they move in and out of transactions as they are"
    )]
    spare: Vec<Box<Unsigned>>,
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
    /// Has `content`, which is that of `transaction` on `key`, signed.
    pub(super) fn ask(
        &mut self,
        signer: &Signer,
        key: ConnKey,
        (content, signed_at): (&[u8], u64),
        prefix: &mut Vec<u8>,
        unsigned: &mut Option<Box<Unsigned>>,
    ) -> Signed {
        let width = signer.batch_width();
        if width <= 1 {
            if let Err(error) = signer.sign(content, signed_at, prefix) {
                tracing::warn!(%error, "message goes out unsigned");
                prefix.clear();
            }
            return Signed::Now;
        }
        let mut prepared = self.spare.pop().unwrap_or_default();
        match signer.prepare(content, None, signed_at, &mut prepared) {
            Ok(0) => {
                self.spare.push(prepared);
                Signed::Now
            }
            Ok(_) => {
                *unsigned = Some(prepared);
                self.waiting.push(key);
                if self.waiting.len() >= width {
                    Signed::Full
                } else {
                    Signed::Later
                }
            }
            Err(error) => {
                tracing::warn!(%error, "message goes out unsigned");
                self.spare.push(prepared);
                Signed::Now
            }
        }
    }

    /// Whether the one that was asked for last is alone.
    pub(super) const fn is_first(&self) -> bool {
        self.waiting.len() == 1
    }
}

impl Shard {
    /// Makes the signatures that contents wait for, and has these go on.
    pub fn sign_waiting(&mut self, now: Now) {
        let keys = std::mem::take(&mut self.signatures.waiting);
        let mut taken: Vec<(ConnKey, Box<Unsigned>)> = Vec::with_capacity(keys.len());
        for key in keys {
            // One that closed meanwhile, or was told that nobody wants the content, has none.
            let unsigned = self.opened(key).and_then(|one| one.unsigned.take());
            taken.extend(unsigned.map(|unsigned| (key, unsigned)));
        }
        let config = std::sync::Arc::clone(&self.config);
        let Some(signer) = &config.signer else { return };
        signer.sign_batch(taken.iter_mut().map(|(_, unsigned)| &mut **unsigned));
        for (key, unsigned) in taken {
            if let Some(transaction) = self.opened(key)
                && let Err(error) = signer.finish(&unsigned, &mut transaction.prefix)
            {
                tracing::warn!(%error, "message goes out unsigned");
            }
            self.signatures.spare.push(unsigned);
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
