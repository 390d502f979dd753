//! All that one core owns, and the turns it takes.
//!
//! A [`Shard`] is a value. Whatever happens to it is one of its `on_*`/`handle_*` methods with
//! `now` passed in; whatever it wants done is an [`Effect`] that its driver takes with
//! [`Shard::take_effect`], or the [`Step`] that a connection asks for next. It owns no socket and
//! reads no clock, so the same code runs under glommio (`io/executor.rs`) and under a simulation.
//!
//! ```text
//! Command ──> intake ──> commit ──> dispatch ──> conn ──> settle ──> commit
//!             stage       batch      throttle     SMTP     verdict    mark
//! ```
//!
//! | file | one idea |
//! |---|---|
//! | `intake.rs` | commands become waiting recipients |
//! | `restore.rs` | so does what a restart finds |
//! | `message.rs` | what is remembered of a message and of a drop file |
//! | `submissions.rs` | what belongs to which drop file and job, and is left of it |
//! | `commit.rs` | what happens when a batch is durable |
//! | `routing.rs` | a domain's lookup ends: site, back-off or bounce |
//! | `dispatch.rs` | who sends next, on which connection, and when not |
//! | `lanes.rs` | where ready recipients stand |
//! | `deferred.rs` | those whose next attempt is not due |
//! | `opening.rs` | connections are opened and given back |
//! | `sockets.rs` | whether sockets can be made |
//! | `site.rs` | a site's back-off and its end |
//! | `hours.rs` | which sites may be sent to, by their clocks |
//! | `jobs.rs` | which jobs may be sent |
//! | `ending.rs` | how a job ends early |
//! | `control.rs` | what a control file asks, and its answer |
//! | `conn.rs` | one connection's session, turned into steps for the driver |
//! | `transaction.rs` | one message on a connection: envelope, bytes, in-doubt slots |
//! | `job.rs` | a row of a job becomes a message |
//! | `closing.rs` | a connection's end, and who gets its permit |
//! | `memory.rs` | what all that waits costs |
//! | `signing.rs` | signatures, several at once where that pays |
//! | `settle.rs` | a report becomes verdict, mark, next attempt |
//! | `report.rs` | log lines |

#[cfg(test)]
mod clock_tests;
mod closing;
mod commit;
mod config;
mod conn;
mod control;
mod deferred;
mod dispatch;
mod doubt;
mod ending;
mod gauge;
mod hours;
#[cfg(test)]
mod hours_tests;
mod intake;
mod job;
mod jobs;
#[cfg(test)]
mod jobs_tests;
mod lanes;
pub mod memory;
mod message;
mod opening;
mod plain;
mod report;
mod restore;
mod routing;
mod settle;
mod signing;
mod site;
mod sockets;
mod steady;
mod submissions;
mod suppression;
#[cfg(test)]
mod testing;
mod timers;
mod transaction;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use hikyaku_spool::Batch;
use hikyaku_spool::suppressed::Asker;
use slab::Slab;

pub use config::{ConnectionCap, EgressSource, ShardConfig, SiteLimits};
pub use conn::{ConnectFailure, Step};
pub use doubt::{Decision, DoubtPolicy, HoldReason, decide, on_doubt_of};
pub use gauge::Gauge;
pub use restore::Recovery;

use crate::connection::plan::BadAddresses;
use crate::handoff::Receipt;
use crate::job::token::Secret;
use crate::log::latency::Latency;
use crate::log::record::LineWriter;
use crate::mail::id::{ShardId, SubmissionId};
use crate::queue::calendar::Calendars;
use crate::queue::domain::{DomainKey, Domains, SiteKey, Waiting};
use crate::queue::jobs::Jobs;
use crate::queue::site::Site;
use crate::throttle::Registry;
use crate::time::{Instant, WallTime};
use commit::Store;
use conn::Conn;
use control::Endings;
use deferred::Deferred;
use message::{Message, Submission};
use sockets::Sockets;
use timers::{Timer, Timers};

/// Key of a connection in its shard. The generation keeps a late event of a closed connection from
/// reaching the one that got its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnKey {
    index: u32,
    generation: u32,
}

/// Now, on both clocks: deadlines run on the first, people and the spool read the second.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic.
    pub mono: Instant,
    /// Of the world.
    pub wall: WallTime,
}

/// What a shard wants done.
#[derive(Debug)]
pub enum Effect {
    /// Open a connection and drive it: [`Shard::on_connected`], then [`Shard::step`] until it
    /// says [`Step::Close`].
    Connect {
        /// Which connection.
        conn: ConnKey,
        /// The peer.
        address: SocketAddr,
        /// Index of the egress source to bind.
        source: usize,
    },
    /// The connection has a new [`Step`]: its driver sleeps in a read or a write.
    Wake(ConnKey),
    /// Look up where this domain's mail goes, then call [`Shard::on_resolved`].
    Resolve {
        /// Which domain.
        domain: DomainKey,
        /// Its name.
        name: Box<str>,
    },
    /// A batch can be taken from this store: [`Shard::take_batch`].
    Commit(usize),
    /// Tell ingest.
    Receipt(Receipt),
    /// There is room again for a command that was refused.
    Room,
    /// When all that is ready now has had its turn: [`Shard::sign_waiting`].
    Sign,
}

/// How much a [`Shard`] remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Messages with recipients that are not final, staged ones included.
    pub messages: usize,
    /// Submissions that are not closed.
    pub submissions: usize,
    /// Domains that somebody waits for.
    pub domains: usize,
    /// Connections.
    pub connections: usize,
    /// Effects that nobody took.
    pub effects: usize,
}

/// One core's share of the engine.
pub struct Shard {
    id: ShardId,
    config: Arc<ShardConfig>,
    registry: Arc<Registry>,
    gauge: Arc<Gauge>,
    stores: Vec<Store>,
    messages: Slab<Message>,
    submissions: Slab<Submission>,
    templates: job::Templates,
    signatures: signing::Signatures,
    by_submission: HashMap<(u16, SubmissionId), u32>,
    /// Parts of submissions whose messages name several jobs, by job.
    parts: HashMap<u32, HashMap<Box<str>, u32>>,
    jobs: Jobs,
    calendars: Calendars,
    /// Who gets no mail.
    suppressed: Option<Asker>,
    /// It was said that the suppression list cannot be read.
    suppressions_unreadable: bool,
    /// Cancelled before this start, as far as accepted up to that moment.
    cancelled: HashMap<Box<str>, u64>,
    endings: Endings,
    domains: Domains,
    sites: Slab<Site<ConnKey>>,
    by_site: HashMap<site::SiteIdentity, SiteKey>,
    /// Sites that did not cope with streaming or chunks in this run, also those that are forgotten
    /// otherwise.
    plain_sites: HashSet<site::SiteIdentity>,
    /// Where a connection broke in place of the first answer to a BDAT, and what the site had accepted
    /// by then.
    unanswered: HashMap<site::SiteIdentity, u64>,
    deferred: Deferred,
    conns: Slab<Conn>,
    /// Addresses that failed a moment ago.
    bad: BadAddresses,
    generation: u32,
    timers: Timers,
    effects: VecDeque<Effect>,
    log: Vec<u8>,
    lines: LineWriter,
    latencies: Latency,
    /// Scratch for one turn, kept for its capacity.
    due: Vec<Waiting>,
    scratch: Vec<u8>,
    random: u64,
    draining: bool,
    blocked: bool,
    /// When timers were last looked at: a clock for what need not be exact.
    looked_at: Instant,
    sockets: Sockets,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// A shard without logs: [`Self::restore`] gives it each of its own, the one that new messages
    /// go to first. `seed` drives jitter and shuffling.
    #[must_use]
    pub fn new(
        id: ShardId,
        config: Arc<ShardConfig>,
        registry: Arc<Registry>,
        gauge: Arc<Gauge>,
        now: Now,
        seed: u64,
    ) -> Self {
        Self {
            id,
            suppressed: config.suppressed.clone().map(Asker::new),
            config,
            registry,
            gauge,
            stores: Vec::new(),
            messages: Slab::new(),
            submissions: Slab::new(),
            templates: job::Templates::default(),
            signatures: signing::Signatures::default(),
            by_submission: HashMap::new(),
            parts: HashMap::new(),
            jobs: Jobs::default(),
            calendars: Calendars::default(),
            suppressions_unreadable: false,
            cancelled: HashMap::new(),
            endings: Endings::default(),
            domains: Domains::default(),
            sites: Slab::new(),
            by_site: HashMap::new(),
            plain_sites: HashSet::new(),
            unanswered: HashMap::new(),
            deferred: Deferred::new(now.mono),
            conns: Slab::new(),
            bad: BadAddresses::new(BAD_ADDRESSES_MAX),
            generation: 0,
            timers: Timers::default(),
            effects: VecDeque::new(),
            log: Vec::new(),
            lines: LineWriter::default(),
            latencies: Latency::new(),
            due: Vec::new(),
            scratch: Vec::new(),
            random: seed,
            draining: false,
            blocked: false,
            looked_at: now.mono,
            sockets: Sockets::default(),
        }
    }

    /// What the tokens of jobs are made with; without it no message of a job can be made.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.templates.secret = Some(secret);
        self
    }

    /// The next thing to do, in order.
    pub fn take_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::on_timer`] wants to be called next.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does all that is due.
    pub fn on_timer(&mut self, now: Now) {
        self.looked_at = now.mono;
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Conn(conn) => self.on_deadline(now, conn),
                Timer::Site(site) => {
                    if let Some(state) = self.sites.get_mut(site.0 as usize) {
                        state.armed = Instant::FAR_FUTURE;
                        self.pump(now, site);
                        self.forget_site(now, site);
                    }
                }
                Timer::Domain(domain) => self.route(now, domain),
                Timer::Job(job) => self.look_at_job(now, job),
                Timer::Hours(calendar) => self.look_at_hours(now, calendar),
                Timer::Wheel => self.turn_wheel(now),
                Timer::Room => {
                    if std::mem::take(&mut self.blocked) {
                        self.effects.push_back(Effect::Room);
                    }
                }
            }
        }
    }

    /// The log lines written since the last call; `empty` takes their place.
    pub fn swap_log(&mut self, empty: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.log, empty)
    }

    /// How many bytes of log lines wait.
    #[must_use]
    pub fn log_len(&self) -> usize {
        self.log.len()
    }

    /// Latency of every stage so far.
    #[must_use]
    pub const fn latencies(&self) -> &Latency {
        &self.latencies
    }

    /// Begins no further transaction; connections quit when theirs ends.
    pub fn drain(&mut self, now: Now) {
        self.draining = true;
        let idle: Vec<ConnKey> = self
            .sites
            .iter_mut()
            .flat_map(|(_, site)| site.idle.drain(..))
            .collect();
        for conn in idle {
            self.quit(now, conn);
        }
        let opening: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_opening())
            .map(|(_, conn)| conn.key)
            .collect();
        for conn in opening {
            self.abandon(now, conn);
        }
    }

    /// Whether a drained shard has nothing left under way: no connection, no unwritten record.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.conns.is_empty() && self.stores.iter().all(Store::is_durable)
    }

    /// Of the store on this log: the highest batch that is durable, and the one that holds what was
    /// appended last. `None` when the shard has no such log.
    #[must_use]
    pub fn durability(&self, log: u16) -> Option<(u64, u64)> {
        let store = self.stores.iter().find(|store| store.log.id() == log)?;
        Some((store.log.durable_seq(), store.log.forming_seq()))
    }

    /// What the shard keeps in memory: all zero for one that has drained and is owed nothing.
    #[must_use]
    pub fn census(&self) -> Census {
        Census {
            messages: self.messages.len(),
            submissions: self.submissions.len(),
            domains: self.domains.len(),
            connections: self.conns.len(),
            effects: self.effects.len(),
        }
    }

    /// Takes what was appended to store `index` since the last batch, unless one is in flight.
    pub fn take_batch(&mut self, now: Now, index: usize) -> Option<Batch> {
        self.stores.get_mut(index)?.take_batch(now)
    }

    fn arm(&mut self, at: Instant, timer: Timer) {
        self.timers.arm(at, timer);
    }

    /// A pseudo-random number (splitmix64): jitter and shuffling, nothing secret.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Addresses remembered as failed; more are forgotten early, which costs a connection attempt each.
const BAD_ADDRESSES_MAX: usize = 4096;
