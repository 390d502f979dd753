//! BDAT (RFC 3030), and how the script breaks it.

use super::super::bdat::Bdat;
use super::super::script::{BehindDot, Stage};
use super::super::world::World;
use super::{Session, State};

impl Session {
    pub(super) fn bdat(&mut self, line: &[u8], world: &mut World) {
        if self.closes_at(Stage::Data, world) {
            return;
        }
        let mut words = line[4..].split(|&b| b == b' ').filter(|w| !w.is_empty());
        let size = words
            .next()
            .and_then(|w| std::str::from_utf8(w).ok())
            .and_then(|w| w.parse().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
            Some(_) => None,
        };
        let (Some(left), Some(last), None) = (size, last, words.next()) else {
            // Nobody knows how many bytes of content follow: going on would read them as commands.
            self.bad_syntax(world, "BDAT size [LAST]");
            return self.hang_up(world);
        };
        world.tally.counters.chunks += 1;
        let breach = world.script.bdat;
        let refused = self.mail.is_none() || self.recipients.is_empty();
        if breach == Bdat::Commands || (breach == Bdat::Leak && refused) {
            return self.say(world, "503", "5.5.1", "BDAT not now");
        }
        let refused = refused || breach.refusal().is_some();
        if !refused && !matches!(self.state, State::BetweenChunks) {
            self.content.restart();
        }
        self.state = State::Chunk {
            left,
            last,
            refused,
        };
        self.swallow = self.breaks(BehindDot::Swallow, world);
        if last && !refused {
            self.answer_early(world);
        }
        self.end_chunk_if_complete(world);
    }

    pub(super) fn end_chunk_if_complete(&mut self, world: &mut World) {
        let State::Chunk {
            left: 0,
            last,
            refused,
        } = self.state
        else {
            return;
        };
        self.state = State::Command;
        if refused {
            // RFC 3030 §2: after refused recipients the chunk is read and answered 503 (or 554).
            let (code, enhanced, text) =
                world
                    .script
                    .bdat
                    .refusal()
                    .unwrap_or(("503", "5.5.1", "no valid recipients"));
            self.say(world, code, enhanced, text);
            if last {
                self.reset();
            }
        } else if last {
            self.end_of_chunks(world);
        } else {
            self.state = State::BetweenChunks;
            self.say(world, "250", "2.0.0", "chunk taken");
        }
    }

    /// The last chunk is complete: the end of the content, unless the script breaks BDAT.
    fn end_of_chunks(&mut self, world: &mut World) {
        let from = self.out.len();
        match world.script.bdat {
            Bdat::Silent => self.reset(),
            Bdat::Close => self.hang_up(world),
            Bdat::Taken => {
                self.end_of_content(world);
                self.out.truncate(from);
                self.hang_up(world);
            }
            Bdat::Twice => {
                self.end_of_content(world);
                self.out.extend_from_within(from..);
            }
            Bdat::Late => {
                self.end_of_content(world);
                self.again.extend_from_slice(&self.out[from..]);
            }
            _ => self.end_of_content(world),
        }
    }
}
