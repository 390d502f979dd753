//! The end of a message: its content is judged, accounted for and answered.

use super::super::script::{BehindDot, Fate, Stage};
use super::super::world::World;
use super::super::{Arrival, ledger};
use super::Session;

impl Session {
    /// The whole content is here: judge it, account for it, answer.
    pub(super) fn end_of_content(&mut self, world: &mut World) {
        self.content.finish();
        self.behind_dot = true;
        self.must_wait |= !world.features.pipelining;
        self.judge_content(world);
        if self.closes_at(Stage::Dot, world) {
            return;
        }
        match self.at_dot {
            Fate::CloseDot => return self.hang_up(world),
            Fate::RefuseDot => {
                world.tally.counters.refused += 1;
                self.say(world, "554", "5.7.1", "content refused");
                return self.reset();
            }
            Fate::DeferDot => {
                world.tally.counters.deferred += 1;
                self.say(world, "451", "4.7.1", "try again later");
                return self.reset();
            }
            _ if world.features.size_max > 0 && self.content.len > world.features.size_max => {
                world.tally.counters.refused += 1;
                self.say(world, "552", "5.3.4", "message too large");
                return self.reset();
            }
            _ => {}
        }
        if self.recipients.is_empty() {
            self.say(world, "554", "5.5.1", "no valid recipients");
            return self.reset();
        }
        self.accept(world);
        if self.at_dot == Fate::CloseAccepted {
            return self.hang_up(world);
        }
        if self.closes_at(Stage::Accepted, world) {
            return;
        }
        self.slow |= self.at_dot == Fate::SlowDot;
        if !std::mem::take(&mut self.answered) {
            self.say(world, "250", "2.0.0", "accepted");
        }
        self.reset();
    }

    pub(super) fn answer_early(&mut self, world: &World) {
        if self.breaks(BehindDot::Early, world) {
            self.answered = true;
            self.say(world, "250", "2.0.0", "accepted");
        }
    }

    fn judge_content(&self, world: &mut World) {
        let counters = &mut world.tally.counters;
        let undeclared = self.content.eight_bit && !self.mail.is_some_and(|m| m.declared_eight_bit);
        for (broken, count) in [
            (self.content.bare_line_end(), &mut counters.bare_line_ends),
            (self.content.long_line, &mut counters.long_lines),
            (undeclared, &mut counters.eight_bit_undeclared),
        ] {
            *count += u64::from(broken);
            counters.protocol_errors += u64::from(broken);
        }
    }

    fn accept(&mut self, world: &mut World) {
        let counters = &mut world.tally.counters;
        if counters.messages == 0 {
            counters.message_first_ns = world.now_ns;
        }
        counters.message_last_ns = world.now_ns;
        counters.messages += 1;
        counters.recipients += self.recipients.len() as u64;
        counters.content_bytes += self.content.len;
        self.messages += 1;
        match self.content.identity {
            Some(identity) => {
                for (hash, _) in &self.recipients {
                    // Odd multiplier: a bijection, so that two recipients cannot swap their messages' hashes.
                    let key = identity ^ hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    counters.duplicates += u64::from(!world.seen.insert(key));
                }
            }
            None => counters.unidentified += 1,
        }
        if let Some(due_ns) = self.content.due_ns {
            world.tally.record_latency(due_ns, world.now_unix_ns);
        }
        if let (Some(inspector), Some(content)) = (&world.inspector, &self.content.kept) {
            let mut from = 0;
            for &(_, to) in &self.recipients {
                inspector.look(&Arrival {
                    reverse_path: &self.reverse_path,
                    recipient: &self.addresses[from..to],
                    content,
                });
                from = to;
            }
        }
        if let Some(lines) = &mut world.ledger {
            let hash = self.content.hash();
            let mut from = 0;
            for &(_, to) in &self.recipients {
                ledger::push(
                    lines,
                    world.now_unix_ns,
                    hash,
                    &self.content.token,
                    &self.addresses[from..to],
                );
                from = to;
            }
        }
    }
}
