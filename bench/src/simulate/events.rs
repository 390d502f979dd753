//! What can happen, and the heap of what will: by time, and within one moment in random, seeded order.

use std::cmp::Reverse;

use hikyaku::dns::QueryId;
use hikyaku::handoff::Receipt;
use hikyaku::shard::ConnectFailure;

use super::world::World;

/// What can happen.
#[derive(Debug)]
pub(super) enum Event {
    /// The process starts.
    Start,
    /// The plan's next end, if it is time for it and this is still that process.
    End(u32),
    /// A producer's file is there.
    Drop(usize),
    /// Trouble ends: from now on everybody behaves.
    Heal,
    /// The wall clock is set, by so many milliseconds.
    Jump(i64),
    /// Space is gone, or back.
    Full(bool),
    // Of this life of the process only:
    Timer(usize),
    /// What a driver does now and then, whatever happens.
    Tick,
    Commit(usize, usize),
    Sign(usize),
    Store(usize, usize),
    Ring(usize),
    Ingest,
    SyncDrops,
    WriteLog,
    Receipt(Box<Receipt>),
    Connected(usize, Option<ConnectFailure>),
    Written(usize),
    AtEngine(usize, Vec<u8>),
    PeerClosed(usize),
    Woken(usize),
    Tls(usize),
    Dns(usize, QueryId, Vec<u8>),
    DnsPoll(usize),
    // Of no process:
    AtPeer(usize),
}

impl Event {
    /// Whether it is nothing to a later process.
    pub(super) const fn ends_with_process(&self) -> bool {
        !matches!(
            self,
            Self::Start
                | Self::End(_)
                | Self::Drop(_)
                | Self::Heal
                | Self::Jump(_)
                | Self::Full(_)
                | Self::AtPeer(_)
        )
    }
}

/// An event with its moment, and the life of the process that it belongs to.
pub(super) struct Scheduled {
    pub(super) at: u64,
    tie: u64,
    order: u64,
    pub(super) life: u32,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie, self.order).cmp(&(other.at, other.tie, other.order))
    }
}

impl World {
    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        let tie = self.rng.next_u64();
        self.events.push(Reverse(Scheduled {
            at,
            tie,
            order: self.order,
            life: self.life,
            event,
        }));
    }

    /// A moment at most so many nanoseconds ahead.
    pub(super) fn soon(&mut self, within: u64) -> u64 {
        self.now
            + 1
            + self
                .rng
                .below(usize::try_from(within).unwrap_or(usize::MAX)) as u64
    }
}
