//! One message on a connection: its envelope, its bytes, its in-doubt slots.
//!
//! A recipient's slot is claimed when the transaction begins, says that the end may be on its way
//! before a byte of that can leave, and is freed when the mark that settles it is durable; in
//! between, the process may die at any moment and the recipient is named. In strict mode the end
//! waits for an intent on stable storage besides: one batch of delay per message, and nothing in
//! relaxed mode.

use std::collections::VecDeque;

use hikyaku_spool::{Log, MessageRef, Slot, SpoolError};

use super::commit::{OnDurable, Store};
use super::job::Made;
use super::signing::{Signed, Wanted, stored};
use super::{ConnKey, Effect, Now, Shard};
use crate::mail::envelope::EnvelopeView;
use crate::mail::mailing::Mailing;
use crate::outcome::{Event, Phase, Unsupported};
use crate::queue::domain::Waiting;
use crate::signing::Unsigned;
use crate::smtp::{self, Session, Unsendable};
use crate::time::Instant;

/// One message on a connection.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Index of the store that holds the message.
    store: usize,
    pub(super) recipients: Vec<Recipient>,
    started: Instant,
    /// Content size on the wire, as far as it can be told beforehand.
    size: u64,
    /// Header fields that go in front of the content: its signatures.
    pub(super) prefix: Vec<u8>,
    /// While it waits for its signatures.
    pub(super) unsigned: Option<Box<Unsigned>>,
    /// The message of a row, in whose place nothing that is stored is sent. Its content is gone once the
    /// session has it.
    made: Option<Made>,
    /// How much of prefix and content was given to the session.
    sent: usize,
    /// Content was asked for: it is signed, and its intents are in the log where there are any.
    opened: bool,
    /// The batch that holds its intents.
    intent: Option<u64>,
    /// In-doubt slots that were reserved and not claimed.
    reserved: u32,
    /// Recipients without a verdict.
    open: usize,
    /// The first of its connection.
    first: bool,
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
            unsigned: None,
            made: None,
            sent: 0,
            opened: false,
            intent: None,
            reserved: 0,
            open: 0,
            first: false,
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
        self.open += 1;
    }

    /// Index of the store that holds the message.
    pub(super) const fn store(&self) -> usize {
        self.store
    }

    /// The addresses of its recipients, in their order.
    fn addresses(&self, envelope: &[u8]) -> Vec<Box<str>> {
        let envelope = EnvelopeView::parse(envelope);
        let address = |index| envelope.and_then(|envelope| envelope.recipient(index));
        self.recipients
            .iter()
            .map(|one| address(one.entry.recipient).unwrap_or_default().into())
            .collect()
    }

    /// Takes out those at these places, with the slots that they have claimed. Before it begins.
    pub(super) fn take_out(
        &mut self,
        which: impl Fn(usize) -> bool,
    ) -> Vec<(Waiting, Option<Slot>)> {
        let mut taken = Vec::new();
        let mut kept = Vec::with_capacity(self.recipients.len());
        for (index, recipient) in std::mem::take(&mut self.recipients).into_iter().enumerate() {
            if which(index) {
                taken.push((recipient.entry, recipient.slot));
            } else {
                kept.push(recipient);
            }
        }
        self.recipients = kept;
        self.open = self.recipients.len();
        taken
    }
}

/// What the log says of the transaction that an attempt was part of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    pub(super) at: Instant,
    /// The first of its connection: what the connection cost is told with it.
    pub(super) first: bool,
    /// Octets of its content with its signatures; an estimate as long as it was not asked for.
    pub(super) size: u64,
}

impl Shard {
    /// Starts `transaction` on `key`. `false`: it was settled without being sent.
    pub(super) fn begin(&mut self, now: Now, key: ConnKey, mut transaction: Transaction) -> bool {
        let entry = transaction.recipients[0].entry;
        let message = &self.messages[entry.message.0 as usize];
        let (at, is_rows) = (message.at(), message.is_rows());
        let store = transaction.store;
        if self.conns[key.index as usize].session.is_none() {
            return false;
        }
        // From here on bytes of others are at work, and an unreadable sector may answer with SIGBUS:
        // should that end the process, it is known what it was about.
        self.stores[store].claim_slots(at, &mut transaction);
        if is_rows {
            match self.make_row(entry) {
                Ok(made) => transaction.made = Some(made),
                Err(why) => {
                    self.stores[store].unclaim_slots(&mut transaction);
                    self.hold_unmade(now, entry, &why);
                    return false;
                }
            }
        }
        let read = if is_rows {
            // It was read a moment ago.
            Log::message_again
        } else {
            Log::message
        };
        let mut view = match read(&self.stores[store].log, at) {
            Ok(view) => view,
            Err(error) => return self.hold_unread(transaction, &error),
        };
        if self.suppresses(now) {
            let content = transaction.made.as_ref().map(|made| &*made.content);
            let mailing = Mailing::of_content(content.unwrap_or(view.content));
            let addresses = transaction.addresses(view.envelope);
            self.leave_out_suppressed(now, &mut transaction, &addresses, &mailing);
            if transaction.recipients.is_empty() {
                return false;
            }
            view = match self.stores[store].log.message_again(at) {
                Ok(view) => view,
                Err(error) => return self.hold_unread(transaction, &error),
            };
        }
        let signatures = if self.config.signer.is_some() {
            SIGNATURES_SIZE
        } else {
            0
        };
        let content = transaction.made.as_ref().map(|made| made.content.len());
        transaction.size = content.unwrap_or(view.content.len()) as u64 + signatures;
        let conn = &mut self.conns[key.index as usize];
        let Some(session) = &mut conn.session else {
            return false;
        };
        if self.sites[conn.site.0 as usize].plain {
            // What another connection found out since this one was ready last.
            session.go_plain();
        }
        // Whether a connection that rested is still there is found out with DATA, before anybody is in
        // doubt. A message that failed before has DATA, too: it may have failed of our choice.
        let may_group = !conn.idle
            && transaction
                .recipients
                .iter()
                .all(|one| one.entry.attempts == 0);
        match offer(session, now, view.envelope, &transaction, may_group) {
            Ok(()) => {
                conn.messages += 1;
                conn.idle = false;
                transaction.first = conn.messages == 1;
                conn.transactions.push_back(transaction);
                true
            }
            Err((event, text)) => {
                self.stores[store].unclaim_slots(&mut transaction);
                for recipient in transaction.recipients {
                    self.fail_unsent(now, recipient.entry, Some(key), Phase::Mail, event, &text);
                }
                false
            }
        }
    }

    /// The message of a transaction that did not begin cannot be read. `false`, as [`Self::begin`] says.
    fn hold_unread(&mut self, mut transaction: Transaction, error: &SpoolError) -> bool {
        self.stores[transaction.store].unclaim_slots(&mut transaction);
        for recipient in transaction.recipients {
            self.hold(recipient.entry, error);
        }
        false
    }

    /// The content of the transaction begun last is wanted: give the session the next part of it.
    pub(super) fn push_body(&mut self, now: Now, key: ConnKey) {
        let conn = &mut self.conns[key.index as usize];
        let (Some(session), Some(transaction)) = (&mut conn.session, conn.transactions.back_mut())
        else {
            return;
        };
        let message = &self.messages[transaction.recipients[0].entry.message.0 as usize];
        let (index, at) = (usize::from(message.store), message.at());
        let store = &mut self.stores[index];
        let Ok(view) = store.log.message_again(at) else {
            // It was readable when the transaction began. Breaking off is the only honest end: the
            // peer discards what came so far, and the recipients are deferred.
            session.handle_closed(now.mono);
            return;
        };
        let opens = !std::mem::replace(&mut transaction.opened, true);
        if opens && let Some(signer) = &self.config.signer {
            let wanted = match &transaction.made {
                Some(made) => Wanted {
                    content: &made.content,
                    signed_at: made.signed_at,
                    body_hash: made.body_hash,
                    again: None,
                },
                None => {
                    let envelope = EnvelopeView::parse(view.envelope);
                    let received = envelope.map_or(0, |envelope| envelope.received.unix_seconds());
                    let others = envelope.and_then(|envelope| envelope.recipient(1));
                    Wanted {
                        content: view.content,
                        signed_at: received,
                        body_hash: None,
                        again: others.map(|_| stored(index, at)),
                    }
                }
            };
            let (prefix, unsigned) = (&mut transaction.prefix, &mut transaction.unsigned);
            let with = (signer, &*self.gauge);
            match self.signatures.ask(with, key, wanted, prefix, unsigned) {
                Signed::Now => {}
                Signed::Later if self.signatures.is_first() => {
                    return self.effects.push_back(Effect::Sign);
                }
                Signed::Later => return,
                Signed::Full => return self.sign_waiting(now),
            }
        }
        if transaction.unsigned.is_some() {
            return;
        }
        // Its intent, where there is one, is written when its signature is there.
        let opens = opens || (transaction.sent == 0 && transaction.intent.is_none());
        let length = match &transaction.made {
            Some(made) => made.content.len(),
            None => view.content.len(),
        };
        let total = transaction.prefix.len() + length;
        transaction.size = total as u64;
        let last = total - transaction.sent <= CHUNK;
        let mut intended = false;
        if self.config.strict && (opens || last) {
            intended = store.intend(key, at, transaction);
            if last && !store.is_intent_durable(transaction) {
                if transaction.intent.is_none() && store.is_durable() {
                    // There is no room for it, and nothing under way that could make some. The peer discards what it
                    // has, and the recipients are deferred.
                    session.handle_closed(now.mono);
                } else if intended {
                    self.commit_soon(index);
                }
                return;
            }
        }
        let stored;
        let content = match &transaction.made {
            Some(made) => &*made.content,
            None => match store.log.message_again(at) {
                Ok(view) => {
                    stored = view;
                    stored.content
                }
                Err(_) => return session.handle_closed(now.mono),
            },
        };
        let mut room = CHUNK;
        if transaction.sent < transaction.prefix.len() {
            session.push_body(&transaction.prefix[transaction.sent..], false);
            room = room.saturating_sub(transaction.prefix.len() - transaction.sent);
            transaction.sent = transaction.prefix.len();
        }
        let from = transaction.sent - transaction.prefix.len();
        let to = content.len().min(from + room);
        transaction.sent = transaction.prefix.len() + to;
        let last = transaction.sent == total;
        session.push_body(&content[from..to], last);
        if last {
            if let Some(made) = &mut transaction.made {
                self.templates.give_back(std::mem::take(&mut made.content));
            }
            // From here on the peer may accept the message without our hearing of it. Each
            // recipient it may accept for has a slot that says so, before a byte of the end moves.
            for recipient in transaction
                .recipients
                .iter_mut()
                .filter(|recipient| !recipient.settled)
            {
                if let Some(slot) = recipient.slot {
                    store.log.in_doubt().set_sent(slot);
                }
            }
        }
        if intended {
            self.commit_soon(index);
        }
    }

    /// The batch with this connection's intents is durable: the end of its content may go.
    pub(super) fn on_intent(&mut self, now: Now, key: ConnKey) {
        self.resume_content(now, key);
    }

    /// One recipient of the oldest transaction has its report.
    pub(super) fn settle(&mut self, now: Now, key: ConnKey, index: u32, report: &smtp::Report) {
        if report.is_out_of_step() {
            // Before whoever is put back meets another connection.
            self.note_broken(now, key);
        }
        let conn = &mut self.conns[key.index as usize];
        let Some(transaction) = conn.transactions.front_mut() else {
            return;
        };
        let Some(recipient) = transaction.recipients.get_mut(index as usize) else {
            return;
        };
        if std::mem::replace(&mut recipient.settled, true) {
            return;
        }
        transaction.open -= 1;
        let (entry, slot) = (recipient.entry, recipient.slot.take());
        let untried = report.is_untried() || report.is_out_of_step();
        // An intent in the log wants an end of the attempt there, too: without one the next start calls it in doubt.
        if untried && transaction.intent.is_none() {
            // Nobody refused it and nobody can have it: this was no attempt.
            if let Some(slot) = slot {
                self.stores[transaction.store].log.in_doubt().free(slot);
            }
            self.put_back(now, entry);
        } else {
            let begun = Begun {
                at: transaction.started,
                first: transaction.first,
                size: transaction.size,
            };
            // A row is alone in its transaction.
            let row = transaction.made.take().map(|made| made.row);
            self.settle_attempt(now, key, entry, (begun, row), slot, report);
        }
        let conn = &mut self.conns[key.index as usize];
        if let Some(ended) = conn.transactions.pop_front_if(|front| front.open == 0) {
            self.stores[ended.store].slots_reserved -= ended.reserved;
        }
    }

    /// Gives back what the transactions of a connection that ends have reserved.
    pub(super) fn release_slots(&mut self, transactions: VecDeque<Transaction>) {
        for mut transaction in transactions {
            self.stores[transaction.store].unclaim_slots(&mut transaction);
        }
    }
}

impl Store {
    /// Claims the slots that were reserved when the transaction was planned.
    fn claim_slots(&mut self, at: MessageRef, transaction: &mut Transaction) {
        self.slots_reserved -= std::mem::take(&mut transaction.reserved);
        for one in &mut transaction.recipients {
            let (recipient, attempt) = (one.entry.recipient, one.entry.attempts.saturating_add(1));
            one.slot = self.log.in_doubt().claim_active(at, recipient, attempt);
        }
    }

    /// Gives back what a transaction holds that sent nothing.
    fn unclaim_slots(&mut self, transaction: &mut Transaction) {
        self.slots_reserved -= std::mem::take(&mut transaction.reserved);
        for one in &mut transaction.recipients {
            if let Some(slot) = one.slot.take() {
                self.log.in_doubt().free(slot);
            }
        }
    }

    /// Strict mode: writes down that this message is about to be handed over. `true`: something was
    /// appended. Where there is no room, it is tried again behind the batch that is under way, if there
    /// is one.
    fn intend(&mut self, key: ConnKey, at: MessageRef, transaction: &mut Transaction) -> bool {
        if transaction.intent.is_some() {
            return false;
        }
        let waiting = transaction.recipients.iter().filter(|one| !one.settled);
        let written = waiting.map(|one| one.entry).try_for_each(|entry| {
            let attempt = entry.attempts.saturating_add(1);
            self.log.append_intent(at, entry.recipient, attempt)
        });
        transaction.intent = written.is_ok().then(|| self.log.forming_seq());
        if written.is_ok() || !self.is_durable() {
            self.when_durable(OnDurable::Intent(key));
        }
        written.is_ok()
    }

    fn is_intent_durable(&self, transaction: &Transaction) -> bool {
        transaction
            .intent
            .is_some_and(|seq| self.log.durable_seq() >= seq)
    }
}

/// Has the session begin `transaction`; else what to say of it to its recipients.
fn offer(
    session: &mut Session,
    now: Now,
    envelope: &[u8],
    transaction: &Transaction,
    may_group: bool,
) -> Result<(), (Event<'static>, String)> {
    // Its checksum is right, so it was written so: a bug, and no reason to lose anybody.
    let envelope = EnvelopeView::parse(envelope).ok_or_else(|| {
        let what = "unreadable envelope";
        (Event::Protocol(what), what.to_owned())
    })?;
    let made = transaction.made.as_ref();
    let mut needs = envelope.needs;
    if let (Some(made), [recipient]) = (made, &*transaction.recipients) {
        let address = envelope.recipient(recipient.entry.recipient);
        needs = made.needs(address.unwrap_or_default());
    }
    let recipients = (0..)
        .zip(&transaction.recipients)
        .map(|(index, recipient)| {
            let address = envelope.recipient(recipient.entry.recipient);
            (index, address.unwrap_or_default())
        });
    let begun = session.begin(
        now.mono,
        smtp::Transaction {
            reverse_path: made.map_or(envelope.reverse_path, |made| &made.row.reverse_path),
            recipients,
            size: transaction.size,
            needs,
            may_group,
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
