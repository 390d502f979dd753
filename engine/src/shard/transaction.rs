//! One message on a connection: its envelope, its bytes, its in-doubt slots.
//!
//! A recipient's slot is claimed before a byte of the content's end can leave, and freed when the
//! mark that settles it is durable; in between, the process may die at any moment and the recipient
//! is named.

use hikyaku_spool::Slot;

use super::{ConnKey, Now, Shard};
use crate::mail::envelope::EnvelopeView;
use crate::outcome::{Event, Phase, Unsupported};
use crate::queue::domain::Waiting;
use crate::smtp::{self, Session, Unsendable};
use crate::time::Instant;

/// One message on a connection.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Index of the store that holds the message.
    store: usize,
    pub(super) recipients: Vec<Recipient>,
    pub(super) started: Instant,
    /// Content size on the wire, for the log.
    pub(super) size: u64,
    /// Header fields that go in front of the stored content: its signatures.
    prefix: Vec<u8>,
    /// How much of prefix and content was given to the session.
    sent: usize,
    /// In-doubt slots that were reserved and not claimed.
    reserved: u32,
}

/// One recipient of a transaction.
#[derive(Debug)]
pub(super) struct Recipient {
    pub(super) entry: Waiting,
    pub(super) slot: Option<Slot>,
    settled: bool,
}

impl Transaction {
    pub(super) fn new(store: usize, first: Waiting, now: Now) -> Self {
        let mut transaction = Self {
            store,
            recipients: Vec::new(),
            started: now.mono,
            size: 0,
            prefix: Vec::new(),
            sent: 0,
            reserved: 0,
        };
        transaction.push(first);
        transaction
    }

    pub(super) fn push(&mut self, entry: Waiting) {
        self.recipients.push(Recipient {
            entry,
            slot: None,
            settled: false,
        });
        self.reserved += 1;
    }
}

impl Shard {
    /// Starts `transaction` on `key`. `false`: it was settled without being sent.
    pub(super) fn begin(&mut self, now: Now, key: ConnKey, mut transaction: Transaction) -> bool {
        let at = self.messages[transaction.recipients[0].entry.message.0 as usize].at;
        let store = transaction.store;
        let conn = &mut self.conns[key.index as usize];
        let Some(session) = &mut conn.session else {
            return false;
        };
        let view = match self.stores[store].log.message(at) {
            Ok(view) => view,
            Err(error) => {
                self.stores[store].slots_reserved -= transaction.reserved;
                for recipient in transaction.recipients {
                    self.hold(recipient.entry, &error);
                }
                return false;
            }
        };
        let signatures = if self.config.signer.is_some() {
            SIGNATURES_SIZE
        } else {
            0
        };
        transaction.size = view.content.len() as u64 + signatures;
        match offer(session, now, view.envelope, &transaction) {
            Ok(()) => {
                conn.messages += 1;
                conn.idle = false;
                conn.transaction = Some(transaction);
                true
            }
            Err((event, text)) => {
                self.stores[store].slots_reserved -= transaction.reserved;
                for recipient in transaction.recipients {
                    self.fail_unsent(now, recipient.entry, Some(key), Phase::Mail, event, &text);
                }
                false
            }
        }
    }

    /// The peer waits for content: give the session the next part of it.
    pub(super) fn push_body(&mut self, now: Now, key: ConnKey) {
        let conn = &mut self.conns[key.index as usize];
        let (Some(session), Some(transaction)) = (&mut conn.session, &mut conn.transaction) else {
            return;
        };
        let message = &self.messages[transaction.recipients[0].entry.message.0 as usize];
        let store = &mut self.stores[usize::from(message.store)];
        let Ok(view) = store.log.message_again(message.at) else {
            // It was readable when the transaction began. Breaking off is the only honest end: the
            // peer discards what came so far, and the recipients are deferred.
            session.handle_closed(now.mono);
            return;
        };
        if transaction.sent == 0
            && let Some(signer) = &self.config.signer
        {
            let received = EnvelopeView::parse(view.envelope)
                .map_or(0, |envelope| envelope.received.unix_seconds());
            if let Err(error) = signer.sign(view.content, received, &mut transaction.prefix) {
                tracing::warn!(%error, "message goes out unsigned");
                transaction.prefix.clear();
            }
        }
        let total = transaction.prefix.len() + view.content.len();
        let mut room = CHUNK;
        if transaction.sent < transaction.prefix.len() {
            session.push_body(&transaction.prefix[transaction.sent..], false);
            room = room.saturating_sub(transaction.prefix.len() - transaction.sent);
            transaction.sent = transaction.prefix.len();
        }
        let from = transaction.sent - transaction.prefix.len();
        let to = view.content.len().min(from + room);
        transaction.sent = transaction.prefix.len() + to;
        let last = transaction.sent == total;
        session.push_body(&view.content[from..to], last);
        if last {
            // From here on the peer may accept the message without our hearing of it. Each
            // recipient it may accept for has a slot that says so, before a byte of the end moves.
            let message = message.at;
            for recipient in transaction
                .recipients
                .iter_mut()
                .filter(|recipient| !recipient.settled)
            {
                let entry = recipient.entry;
                recipient.slot = store.log.in_doubt().claim(
                    message,
                    entry.recipient,
                    entry.attempts.saturating_add(1),
                );
            }
            store.slots_reserved -= std::mem::take(&mut transaction.reserved);
        }
    }

    /// One recipient of the running transaction has its report.
    pub(super) fn settle(&mut self, now: Now, key: ConnKey, index: u32, report: smtp::Report) {
        let conn = &mut self.conns[key.index as usize];
        let Some(transaction) = &mut conn.transaction else {
            return;
        };
        let Some(recipient) = transaction.recipients.get_mut(index as usize) else {
            return;
        };
        if std::mem::replace(&mut recipient.settled, true) {
            return;
        }
        let entry = recipient.entry;
        let slot = recipient.slot.take();
        self.settle_attempt(now, key, entry, slot, &report);
    }

    /// Gives back what a finished transaction reserved.
    pub(super) fn finish_transaction(&mut self, key: ConnKey) {
        let conn = &mut self.conns[key.index as usize];
        let Some(transaction) = conn.transaction.take() else {
            return;
        };
        self.stores[transaction.store].slots_reserved -= transaction.reserved;
    }
}

/// Has the session begin `transaction`; else what to say of it to its recipients.
fn offer(
    session: &mut Session,
    now: Now,
    envelope: &[u8],
    transaction: &Transaction,
) -> Result<(), (Event<'static>, String)> {
    // Its checksum is right, so it was written so: a bug, and no reason to lose anybody.
    let envelope = EnvelopeView::parse(envelope).ok_or_else(|| {
        let what = "unreadable envelope";
        (Event::Protocol(what), what.to_owned())
    })?;
    let recipients = (0..)
        .zip(&transaction.recipients)
        .map(|(index, recipient)| {
            let address = envelope.recipient(recipient.entry.recipient);
            (index, address.unwrap_or_default())
        });
    let begun = session.begin(
        now.mono,
        smtp::Transaction {
            reverse_path: envelope.reverse_path,
            recipients,
            size: transaction.size,
            needs: envelope.needs,
        },
    );
    begun.map_err(|error| {
        let unsupported = |what| (Event::Unsupported(what), String::new());
        match error {
            Unsendable::TooBig(_) => unsupported(Unsupported::Size),
            Unsendable::NeedsSmtputf8 => unsupported(Unsupported::Smtputf8),
            Unsendable::NeedsEightBit => unsupported(Unsupported::EightBit),
            Unsendable::BadEnvelope | Unsendable::NotReady => {
                let event = Event::Protocol("the message could not be begun");
                (event, error.to_string())
            }
        }
    })
}

/// Content is given to the session in parts of this size, so that a message of any size costs a
/// connection no more memory than this.
const CHUNK: usize = 128 << 10;

/// Allowance for signatures in MAIL's SIZE parameter, which is an estimate (RFC 1870 §6.1).
const SIGNATURES_SIZE: u64 = 1024;
