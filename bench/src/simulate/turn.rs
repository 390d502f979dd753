//! One shard's turn: a call into it, then its log lines, its effects and its timer, as the production driver takes them.

use hikyaku::shard::{Effect, Now, Shard};
use hikyaku::time::Instant;

use super::events::Event;
use super::ingest::Ring;
use super::ledger::{Broken, Checked};
use super::store::Writer;
use super::world::{SECOND, World};

/// One shard with what its driver keeps.
pub(super) struct ShardState {
    pub(super) shard: Shard,
    pub(super) writers: Vec<Writer>,
    pub(super) logs: Vec<u16>,
    pub(super) ring: Ring,
    pub(super) waits_for_room: bool,
    pub(super) timer_at: Instant,
}

impl ShardState {
    pub(super) fn new(shard: Shard, logs: Vec<u16>) -> Self {
        Self {
            shard,
            writers: logs.iter().map(|_| Writer::default()).collect(),
            logs,
            ring: Ring::new(),
            waits_for_room: false,
            timer_at: Instant::FAR_FUTURE,
        }
    }
}

/// As in the production driver: lines wait for so long at most.
const LOG_EVERY: u64 = SECOND / 2;

const CLOSED: &[u8] = b"outside of its hours";

impl World {
    /// One call into a shard, and all that follows from it. `None` when the process died in it.
    pub(super) fn turn<T>(
        &mut self,
        shard: usize,
        call: impl FnOnce(&mut Shard, Now) -> T,
    ) -> Result<Option<T>, Broken> {
        let now = Now {
            mono: self.mono(),
            wall: self.wall(),
        };
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let state = &mut process.shards[shard];
        let result = call(&mut state.shard, now);
        if self.disk.is_dead() {
            return Ok(None);
        }
        self.after_turn(shard)?;
        Ok(Some(result))
    }

    /// Log lines, effects and the timer of a shard that has just had its turn.
    pub(super) fn after_turn(&mut self, shard: usize) -> Checked {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let state = &mut process.shards[shard];
        if state.shard.log_len() > 0 {
            let lines = state.shard.swap_log(Vec::new());
            self.trace.update(&lines);
            if self.scenario.hours.is_some() && lines.windows(CLOSED.len()).any(|at| at == CLOSED) {
                self.stats.faults.insert("clock: a site is closed");
            }
            if self.tell {
                eprint!("{:>18} {}", self.now, String::from_utf8_lossy(&lines));
            }
            let shard = &state.shard;
            let waiting = self.ledger.unwritten.len();
            self.ledger
                .lines(&lines, |log| Some(shard.durability(log)?.1))?;
            // As in production they reach the file a while later, and are lost with the process until then.
            if waiting == 0 && !self.ledger.unwritten.is_empty() {
                self.at(self.now + LOG_EVERY, Event::WriteLog);
            }
        }
        loop {
            let Some(process) = &mut self.process else {
                return Ok(());
            };
            let Some(effect) = process.shards[shard].shard.take_effect() else {
                break;
            };
            if matches!(effect, Effect::Connect { .. }) {
                self.judge_connect()?;
            }
            self.carry_out_effect(shard, effect);
        }
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let state = &mut process.shards[shard];
        if let Some(due) = state.shard.next_timer()
            && due < state.timer_at
        {
            state.timer_at = due;
            let at = due.as_nanos().max(self.now);
            self.at(at, Event::Timer(shard));
        }
        Ok(())
    }

    fn carry_out_effect(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Connect { conn, address, .. } => {
                self.note(&[b"connect", address.to_string().as_bytes()]);
                let host = match address.ip() {
                    std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]).saturating_sub(1),
                    std::net::IpAddr::V6(_) => 0,
                };
                self.connect(shard, conn, host.min(self.scenario.personas.len() - 1));
            }
            Effect::Wake(conn) => self.wake(shard, conn),
            Effect::Resolve { domain, name } => {
                self.note(&[b"resolve", name.as_bytes()]);
                self.resolve(shard, domain, &name);
            }
            Effect::Commit(store) => self.at(self.now + 1, Event::Commit(shard, store)),
            Effect::Sign => self.at(self.now + 1, Event::Sign(shard)),
            Effect::Receipt(receipt) => {
                let at = self.soon(300_000);
                self.at(at, Event::Receipt(Box::new(receipt)));
            }
            Effect::Room => {
                if let Some(process) = &mut self.process {
                    process.shards[shard].waits_for_room = false;
                }
                self.at(self.now + 1, Event::Ring(shard));
            }
        }
    }
}
