//! Several transactions in flight on one session (RFC 2920: content may open a group of commands;
//! RFC 3030: content as chunks need not wait for 354).
//!
//! Without CHUNKING: the envelope of one message travels behind the final dot of the one before. With
//! it: envelopes and contents of as many messages as the depth allows.
//!
//! A reply is known by its place in the queue alone, so a peer that loses count is noticed at the
//! first reply that cannot be the one due. Where all replies look alike, as with chunks, a peer that
//! throws whole transactions away would pass the replies of later ones off for theirs: so a session
//! first sends one transaction behind another and nothing more until both are answered. The session then goes on, if it can, one transaction at
//! a time, and says so for good. What it cannot rule out it calls in doubt: everybody whose content's
//! end was handed out and not answered, in each transaction in flight.

use std::collections::VecDeque;
use std::mem;

use super::{Session, Stage, Write};
use crate::smtp::config::StreamDepth;
use crate::smtp::due::Due;
use crate::smtp::report::{Action, Event, Phase, Report};
use crate::smtp::transaction::Running;
use crate::time::Instant;

/// The transactions behind the oldest, and whether there may be any.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Most in flight; `None` in transaction mode.
    depth: Option<StreamDepth>,
    broken: Option<&'static str>,
    /// Something was sent that transaction mode would not have sent.
    pub(super) used: bool,
    /// Begun and not ended, with the oldest.
    pub(super) in_flight: usize,
    /// All but the oldest, in the order they were begun.
    behind: VecDeque<Running>,
    /// Ended ones, kept for the capacity of their lists.
    spare: Vec<Running>,
    /// Two transactions sent as one were answered in full, one of them behind the other's chunks.
    proven: bool,
    /// They are on their way.
    proving: bool,
    /// A reply was owed already when the last write was handed out; its deadline stands.
    watched: bool,
}

/// No transaction is begun while so much waits to be written: enough for a large write, and a bound
/// on what a connection holds in memory.
const OUTPUT_MAX: usize = 256 << 10;

impl Stream {
    pub(super) fn push(&mut self) -> &mut Running {
        self.proving = true;
        let running = self.spare.pop().unwrap_or_default();
        self.behind.push_back(running);
        let last = self.behind.len() - 1;
        &mut self.behind[last]
    }

    pub(super) fn pop_back(&mut self) {
        self.spare.extend(self.behind.pop_back());
        self.proving &= !self.behind.is_empty();
    }

    /// The transaction begun last.
    pub(super) fn last_or<'a>(&'a mut self, running: &'a mut Running) -> &'a mut Running {
        self.behind.back_mut().unwrap_or(running)
    }

    /// The oldest ended. `true`: another one takes its place.
    pub(super) fn end_first(&mut self, running: &mut Running) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(next) = self.behind.pop_front() else {
            // Nothing else was sent meanwhile, so these replies were theirs.
            self.proven |= mem::take(&mut self.proving);
            return false;
        };
        self.spare.push(mem::replace(running, next));
        true
    }

    /// The first reason is the one that counts.
    pub(super) fn break_off(&mut self, why: &'static str) {
        self.broken.get_or_insert(why);
    }

    /// From the next transaction on, one at a time.
    pub(super) const fn stop(&mut self) {
        self.depth = None;
    }

    pub(super) fn clear(&mut self) {
        self.in_flight = 0;
        self.behind.clear();
    }
}

impl Session {
    /// Has the session keep up to `depth` transactions in flight where the peer offers PIPELINING
    /// and our settings allow it. Not part of the settings, because a site earns it while we run.
    #[must_use]
    pub const fn with_stream(mut self, depth: StreamDepth) -> Self {
        self.stream.depth = Some(depth);
        self
    }

    /// Why this session no longer streams, or sends content as chunks, though it was allowed to: a sign
    /// that the peer does not cope. To be asked when the session closes, whenever it is ready, and when
    /// a report is out of step. Use [`Session::go_plain`] for this site from now on.
    #[must_use]
    pub const fn stream_broken(&self) -> Option<&'static str> {
        self.stream.broken
    }

    /// Whether it was given a depth, and none of [`Session::go_plain`]'s reasons came up since.
    #[must_use]
    pub const fn may_stream(&self) -> bool {
        self.stream.depth.is_some()
    }

    /// Whether another transaction may be begun while replies to this one are due.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.stream.depth.is_some()
            && self.stream.broken.is_none()
            && self.extensions.pipelining
            && self.config.pipelining
    }

    /// Transactions that were begun and have replies due. May count one whose recipients all have
    /// their report already.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.stream.in_flight
    }

    /// No transaction is in flight: `quit` may be called when ready.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.stream.in_flight == 0
    }

    /// Content of the transaction begun last is wanted. Turns false before its end was pushed when
    /// nobody is left to get it.
    #[must_use]
    pub fn wants_content(&self) -> bool {
        self.stage == Stage::Body && !self.unasked
    }

    /// Whether one more may be begun behind those in flight. Not while the driver has the output.
    pub(super) fn has_room_behind(&self) -> bool {
        self.is_streaming()
            && self
                .stream
                .depth
                .is_some_and(|depth| self.stream.in_flight < depth.get())
            && self.write != Write::HandedOut
            && self.output.len() < OUTPUT_MAX
            && (!self.running.is_chunked() || self.stream.proven || self.may_prove())
    }

    /// Whether the next transaction would be the one that shows whether the peer copes: it leaves
    /// together with the end of the only other one.
    fn may_prove(&self) -> bool {
        !self.stream.proving && self.stream.in_flight == 1 && self.running.is_end_pushed()
    }

    pub(super) fn offer_ready(&mut self) {
        if self.is_ready() && !self.actions.contains(&Action::Ready) {
            self.actions.push_back(Action::Ready);
        }
    }

    /// The end of the last transaction's content is in the output.
    pub(super) fn content_pushed(&mut self) {
        if self.is_streaming() {
            self.stage = Stage::Ready;
            self.offer_ready();
        } else {
            self.stage = Stage::Talking;
        }
    }

    pub(super) fn hand_out(&mut self) {
        if self
            .stream
            .last_or(&mut self.running)
            .seal(&mut self.output)
        {
            self.due.push_back(Due::Chunk);
        }
        self.running.hand_out();
        self.stream.behind.iter_mut().for_each(Running::hand_out);
        self.stream.watched = self.owed > 0;
        self.owed = self.due.len();
        self.write = Write::HandedOut;
    }

    pub(super) fn written(&mut self, now: Instant) {
        self.running.written();
        self.stream.behind.iter_mut().for_each(Running::written);
        self.block_started = now;
        if !self.stream.watched {
            self.watch(now);
        }
    }

    /// Sets the limit for what is waited for now: the first reply due, or content.
    pub(super) fn watch(&mut self, now: Instant) {
        if self.owed > 0 {
            self.expect(now);
        } else if self.stage == Stage::Body {
            self.deadline = now.after(self.config.deadlines.block);
        }
    }

    /// A reply came while content of the last transaction is being pushed.
    pub(super) fn go_on_pushing(&mut self, now: Instant) {
        if self.running.is_open() || !self.stream.behind.is_empty() {
            return self.watch(now);
        }
        // Nobody wants the rest: without its LAST this is no message, and RSET forgets it.
        if self.running.seal(&mut self.output) {
            self.due.push_back(Due::Chunk);
        }
        self.stage = Stage::Talking;
        if self.due.is_empty() {
            self.end_transaction(now);
        } else {
            self.expect(now);
        }
    }

    /// The session fails: is streaming to blame? Hanging up with a 421 is not a sign of it.
    pub(super) fn note_break(&mut self, event: &Event) {
        self.note_unanswered(event);
        match event {
            Event::Protocol(_) if self.stream.used => {
                self.stream
                    .break_off("replies do not fit what was pipelined");
            }
            Event::Closed if self.is_answer_missing() => {
                self.stream
                    .break_off("connection closed behind pipelined commands");
            }
            Event::Timeout if self.is_answer_missing() => {
                self.stream.break_off("no reply to pipelined commands");
            }
            _ => {}
        }
    }

    /// Something that went behind unanswered content was not answered.
    fn is_answer_missing(&self) -> bool {
        // After its 354 a transaction without chunks is like any other.
        let own = self.running.is_streamed() && self.running.is_out() && self.stream.in_flight > 0;
        own && (self.running.is_chunked()
            || !matches!(self.phase(), Phase::Body | Phase::Dot | Phase::Idle))
            || self.stream.behind.iter().any(Running::is_out)
    }

    /// A group leaves when its content is complete; what exceeds all bounds of a group leaves before.
    pub(super) fn holds_group(&self) -> bool {
        self.stage == Stage::Body && self.running.is_group() && self.output.len() <= OUTPUT_MAX
    }

    pub(super) fn is_doubt_behind(&self) -> bool {
        self.stream.behind.iter().any(Running::is_in_doubt)
    }

    /// Everybody without a verdict gets one: `event`, which is a reply only when it is a 421.
    pub(super) fn report_failure(&mut self, phase: Phase, event: Event) {
        let is_reply = matches!(event, Event::Reply(_));
        // A 421 comes in its turn. In place of the answer to MAIL or RCPT it refuses a group before the
        // peer came to its content; with several messages in flight only the answer to the end is sure.
        let in_turn = self.due.front() == Some(&Due::Dot) || self.running.is_group();
        let answers_end = is_reply && !self.unasked && in_turn;
        self.drop_stale_actions();
        // Whether somebody gets the event itself.
        let mut told = false;
        // A 421 instead of another reply says nothing certain about content that was sent already.
        let doubt = |event: &Event| match event {
            Event::Reply(_) => Event::Closed,
            event => event.clone(),
        };
        if self.running.is_in_doubt() && !answers_end {
            told = !is_reply;
            self.running
                .report_all(Phase::Dot, doubt(&event), &mut self.actions);
        } else if self.running.is_open() {
            told = true;
            self.running
                .report_all(phase, event.clone(), &mut self.actions);
        }
        for running in &mut self.stream.behind {
            if running.is_in_doubt() {
                told |= !is_reply;
                running.report_all(Phase::Dot, doubt(&event), &mut self.actions);
            } else if running.is_open() {
                // The peer said nothing of it: what ended the session is no verdict on it.
                running.report_all(Phase::Mail, Event::NotReached, &mut self.actions);
            }
        }
        if !told {
            self.actions
                .push_back(Action::SessionFailed(Report::new(phase, event)));
        }
    }
}
