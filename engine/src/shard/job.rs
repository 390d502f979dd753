//! Jobs in a shard: a row becomes a message when its turn has come.
//!
//! A row is rendered before its transaction begins: a row that cannot be rendered then costs its own
//! recipient and no connection, and SIZE is exact. It is signed when its content is due.
//! Templates are compiled when the first row of a job needs one, kept while recipients of the job are
//! left, and no more of them than [`TEMPLATES_MAX`] and [`TEMPLATE_BYTES_MAX`]: what a row misses is
//! compiled again from the bundle in the spool.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use hikyaku_spool::{Log, MessageRef, MessageView, SpoolError};
use memchr::memmem::find;

use super::{Shard, gauge};
use crate::job::chunk::ChunkView;
use crate::job::template::Template;
use crate::job::token::Secret;
use crate::job::{Bundle, RowView};
use crate::log::record::AttemptKind;
use crate::mail::envelope::{ContentNeeds, EnvelopeView};
use crate::outcome::Class;
use crate::queue::domain::Waiting;
use crate::shard::Now;
use crate::signing::BodyHash;

/// What the messages of a job are made with.
#[derive(Debug)]
struct Compiled {
    template: Template,
    /// `t=` of every signature, seconds since 1970.
    signed_at: u64,
    /// By [`Template::same_body`]: the hash of a body that is the same for all rows.
    bodies: RefCell<Vec<Option<BodyHash>>>,
}

impl Compiled {
    /// The hash of the body of a row's message, where that is not of this row alone, and whether it was
    /// known.
    fn body_hash(&self, row: RowView<'_>, content: &[u8]) -> Option<(BodyHash, bool)> {
        let which = self.template.same_body(row)?;
        let mut bodies = self.bodies.borrow_mut();
        if bodies.len() <= which {
            bodies.resize(which + 1, None);
        }
        if let Some(known) = bodies[which] {
            return Some((known, true));
        }
        let body = find(content, b"\r\n\r\n")? + 4;
        let hash = BodyHash::of(&content[body..]);
        bodies[which] = Some(hash);
        Some((hash, false))
    }
}

/// A message that was made from a row.
#[derive(Debug)]
pub(super) struct Made {
    /// Header and body in canonical form.
    pub(super) content: Vec<u8>,
    /// Seconds since 1970.
    pub(super) signed_at: u64,
    /// Known when it is to be signed and its body is that of other rows, too.
    pub(super) body_hash: Option<BodyHash>,
    pub(super) row: Row,
}

impl Made {
    /// What it needs of the peer. Templates make seven bits of everything, a whole message with
    /// placeholders need not, and the parts of a merge are sent as they are.
    pub(super) fn needs(&self, recipient: &str) -> ContentNeeds {
        let content = &*self.content;
        let eight_bit = !content.is_ascii();
        let header = find(content, b"\r\n\r\n").filter(|_| eight_bit);
        let header = &content[..header.unwrap_or(if eight_bit { content.len() } else { 0 })];
        ContentNeeds {
            eight_bit,
            smtputf8: !recipient.is_ascii()
                || !self.row.reverse_path.is_ascii()
                || !header.is_ascii(),
            dot_lines: content.first() == Some(&b'.') || find(content, b"\n.").is_some(),
        }
    }
}

/// What the log says of a row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) number: u64,
    pub(super) variant: Option<Box<str>>,
    pub(super) reverse_path: Box<str>,
}

/// Why no message can be made from a row.
#[derive(Debug)]
pub(super) enum Unmade {
    /// Row or bundle cannot be read from the spool.
    Spool(SpoolError),
    /// Template and row do not go together. Always so, whenever it is tried.
    Row(String),
}

impl From<SpoolError> for Unmade {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

/// Compiled templates, by their submission's key.
#[derive(Debug, Default)]
pub(super) struct Templates {
    pub(super) secret: Option<Secret>,
    kept: HashMap<u32, Kept>,
    bytes: usize,
    uses: u64,
    /// Chunks whose checksum was right a moment ago: by store and number, the latest first.
    checked: [(u16, u64); CHECKED],
    /// Buffers that were sent, for the next messages: a batch of signatures sends several at once.
    buffers: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Kept {
    /// The reason is the same for every row.
    compiled: Result<Rc<Compiled>, Box<str>>,
    bytes: usize,
    used: u64,
}

impl Templates {
    fn find(&mut self, submission: u32) -> Option<Result<Rc<Compiled>, Box<str>>> {
        let kept = self.kept.get_mut(&submission)?;
        self.uses += 1;
        kept.used = self.uses;
        Some(kept.compiled.clone())
    }

    fn keep(&mut self, submission: u32, compiled: Result<Rc<Compiled>, Box<str>>, bytes: usize) {
        while self.kept.len() >= TEMPLATES_MAX
            || (!self.kept.is_empty() && self.bytes + bytes > TEMPLATE_BYTES_MAX)
        {
            // As many as there are; and it is rare, for each of them costs a compilation.
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.forget(oldest);
        }
        self.uses += 1;
        let used = self.uses;
        self.bytes += bytes;
        self.kept.insert(
            submission,
            Kept {
                compiled,
                bytes,
                used,
            },
        );
    }

    /// Nobody of this submission is left.
    pub(super) fn forget(&mut self, submission: u32) {
        if let Some(kept) = self.kept.remove(&submission) {
            self.bytes -= kept.bytes;
        }
    }

    /// A message was sent: its buffer serves another one.
    pub(super) fn give_back(&mut self, mut buffer: Vec<u8>) {
        let bytes_max = if self.buffers.is_empty() {
            BUFFER_MAX
        } else {
            BUFFER_MANY_MAX
        };
        if buffer.capacity() <= bytes_max && self.buffers.len() < BUFFERS_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// A chunk of rows is read once for each of them. Its checksum is computed once for all that come
    /// one after another.
    fn chunk<'a>(
        &mut self,
        log: &'a Log,
        store: u16,
        at: MessageRef,
    ) -> Result<MessageView<'a>, SpoolError> {
        let this = (store, at.seq());
        if self.checked.contains(&this) {
            return log.message_again(at);
        }
        let view = log.message(at)?;
        self.checked.rotate_right(1);
        self.checked[0] = this;
        Ok(view)
    }
}

impl Shard {
    /// Makes the message of a row.
    pub(super) fn make_row(&mut self, entry: Waiting) -> Result<Made, Unmade> {
        let message = &self.messages[entry.message.0 as usize];
        let (store, at, submission) = (message.store, message.at(), message.submission);
        let compiled = self.compiled(store, submission)?;
        let mut content = self.templates.buffers.pop().unwrap_or_default();
        let log = &self.stores[usize::from(store)].log;
        let view = self.templates.chunk(log, store, at)?;
        let row = row_in(&view, entry.recipient).ok_or_else(unreadable_row)?;
        if let Err(error) = compiled.template.render(row, &mut content) {
            return Err(Unmade::Row(error.cause.to_string()));
        }
        let mut body_hash = None;
        if self.config.signer.is_some()
            && let Some((hash, was_known)) = compiled.body_hash(row, &content)
        {
            body_hash = Some(hash);
            gauge::add(&self.gauge.body_hashes_reused, u64::from(was_known));
        }
        Ok(Made {
            content,
            body_hash,
            signed_at: compiled.signed_at,
            row: describe(&compiled.template, row),
        })
    }

    /// What the log says of a row that no message was made from.
    pub(super) fn row_of(&mut self, entry: Waiting) -> Option<Row> {
        let message = &self.messages[entry.message.0 as usize];
        if !message.is_rows() {
            return None;
        }
        let (store, at, submission) = (message.store, message.at(), message.submission);
        let compiled = self.compiled(store, submission).ok();
        let log = &self.stores[usize::from(store)].log;
        let view = self.templates.chunk(log, store, at).ok()?;
        let row = row_in(&view, entry.recipient)?;
        Some(match compiled {
            Some(compiled) => describe(&compiled.template, row),
            None => Row {
                number: row.number,
                variant: None,
                reverse_path: EnvelopeView::parse(view.envelope)?.reverse_path.into(),
            },
        })
    }

    /// The queues learn what they need to know of a submission that is a job, before any of its rows is
    /// taken in. Without a readable bundle its recipients wait like any others, and are held one by one.
    pub(super) fn take_bundle(&mut self, submission: u32, at: MessageRef, content: &[u8]) {
        self.submissions[submission as usize].bundle = Some(at);
        let terms = Bundle::decode(content).and_then(|bundle| bundle.terms().ok()?);
        if let Some(terms) = terms {
            self.set_terms(submission, terms);
        }
    }

    fn compiled(&mut self, store: u16, submission: u32) -> Result<Rc<Compiled>, Unmade> {
        let submission = self.submissions[submission as usize].home;
        let known = match self.templates.find(submission) {
            Some(known) => known,
            None => {
                let of = &self.submissions[submission as usize];
                let at = of.bundle.ok_or_else(|| {
                    Unmade::Row("what its job's messages are made from is not in the spool".into())
                })?;
                let (compiled, bytes) = match self.stores[usize::from(store)].log.message(at) {
                    Ok(view) => {
                        let secret = self.templates.secret.as_ref();
                        let bytes = view.content.len() * COMPILED_FACTOR;
                        (compile(view.content, secret), bytes)
                    }
                    // Said of every row, looked for once.
                    Err(error) => (Err(error.to_string().into()), 0),
                };
                self.templates.keep(submission, compiled.clone(), bytes);
                compiled
            }
        };
        known.map_err(|reason| Unmade::Row(reason.into()))
    }

    /// No message can be made from a row: its recipient is held, which blames nobody's address, and
    /// the others go on.
    pub(super) fn hold_unmade(&mut self, now: Now, entry: Waiting, why: &Unmade) {
        let reason = match why {
            Unmade::Spool(error) => return self.hold(entry, error),
            Unmade::Row(reason) => reason,
        };
        let message = &self.messages[entry.message.0 as usize];
        let (store, at) = (usize::from(message.store), message.at());
        let row = self.row_of(entry);
        let view = self.stores[store].log.message_again(at).ok();
        let envelope = view.and_then(|view| EnvelopeView::parse(view.envelope));
        let job = envelope.and_then(|envelope| envelope.job).unwrap_or("");
        let text = match &row {
            Some(row) => format!(
                "no message can be made from row {} of job {job}: {reason}",
                row.number
            ),
            None => format!("no message can be made from a row of job {job}: {reason}"),
        };
        let why = (Class::Held, &*text);
        self.log_in_queue(now, AttemptKind::Held, entry, why, row.as_ref());
        self.end_held(entry);
    }
}

fn unreadable_row() -> Unmade {
    Unmade::Row("the row cannot be read".to_owned())
}

fn row_in<'a>(view: &MessageView<'a>, recipient: u32) -> Option<RowView<'a>> {
    let address = EnvelopeView::parse(view.envelope)?.recipient(recipient)?;
    let chunk = ChunkView::parse(view.content)?;
    chunk.row(usize::try_from(recipient).ok()?, address)
}

/// The number of a row, for those who have no use for the row.
pub(super) fn number_of(content: &[u8], recipient: u32) -> Option<u64> {
    let row = ChunkView::parse(content)?.row(usize::try_from(recipient).ok()?, "")?;
    Some(row.number)
}

fn describe(template: &Template, row: RowView<'_>) -> Row {
    Row {
        number: row.number,
        variant: template.variant(row).map(Into::into),
        reverse_path: template.reverse_path(row).into(),
    }
}

fn compile(content: &[u8], secret: Option<&Secret>) -> Result<Rc<Compiled>, Box<str>> {
    let secret = secret.ok_or("the engine has no secret for its tokens")?;
    let bundle = Bundle::decode(content).ok_or("the job in the spool cannot be read")?;
    let told = |error: crate::job::JobError| error.to_string();
    let start_ms = bundle.job().map_err(told)?.schedule.start_ms;
    let template = Template::compile(&bundle, secret).map_err(told)?;
    Ok(Rc::new(Compiled {
        template,
        bodies: RefCell::default(),
        signed_at: start_ms.unwrap_or(bundle.accepted_ms) / 1000,
    }))
}

/// Templates that a shard keeps.
const TEMPLATES_MAX: usize = 256;
/// What they may take together, as far as their bundles tell: one is kept whatever it takes.
const TEMPLATE_BYTES_MAX: usize = 64 << 20;
/// A compiled template is so much larger than what it was made from, its encoded lines included.
const COMPILED_FACTOR: usize = 5;
/// Chunks of several domains are sent side by side.
const CHECKED: usize = 8;
/// A larger buffer is not kept.
const BUFFER_MAX: usize = 1 << 20;
/// Nor are several of them, if larger than this: 4 MiB together.
const BUFFER_MANY_MAX: usize = 128 << 10;
const BUFFERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_made_message_needs_is_read_off_it() {
        let needs = |content: &str| {
            let row = Row {
                number: 0,
                variant: None,
                reverse_path: "a@b.test".into(),
            };
            let made = Made {
                content: content.as_bytes().to_vec(),
                signed_at: 0,
                body_hash: None,
                row,
            };
            let needs = made.needs("c@d.test");
            (needs.eight_bit, needs.smtputf8, needs.dot_lines)
        };
        assert_eq!(needs("From: a\r\n\r\nhi\r\n"), (false, false, false));
        assert_eq!(needs("From: a\r\n\r\nh\u{e4}\r\n"), (true, false, false));
        // The parts of a merge are sent as they are, and so are the values in its header.
        assert_eq!(needs("From: \u{e4}\r\n\r\nhi\r\n"), (true, true, false));
        assert_eq!(needs("From: \u{e4}\r\n"), (true, true, false));
        assert_eq!(needs("From: a\r\n\r\nhi\r\n.x\r\n"), (false, false, true));
    }
}
