//! One world: virtual time, the engine's shards as values, and everything around them.
//!
//! Everything that happens is an event in a heap; events of one moment come in random, seeded order. Nothing here reads a
//! clock, draws from the system or iterates over a hash table, so a seed repeats, and [`World::trace`] proves it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use hikyaku::dns::rng::Rng;
use hikyaku::handoff::Tally;
use hikyaku::mail::id::SubmissionId;
use hikyaku::shard::{ConnKey, Shard};
use hikyaku::time::{Instant, WallTime};
use hikyaku_spool::Spool;
use xxhash_rust::xxh3::Xxh3;

use super::disk::Disk;
use super::dns::{Flight, Names};
use super::events::Scheduled;
use super::hours::Clock;
use super::ingest::{Ingest, Place};
use super::ledger::{Broken, Checked, Ledger};
use super::life::Parts;
use super::link::Link;
use super::scenario::{Crash, Scenario, files, hours, names};

pub(super) use super::events::Event;
pub(super) use super::turn::ShardState;

/// The engine while it runs.
pub(super) struct Process {
    pub(super) shards: Vec<ShardState>,
    pub(super) ingest: Ingest,
    pub(super) draining: bool,
    /// Held for its lock.
    pub(super) _spool: Spool,
}

/// Counts of one seed.
#[derive(Debug, Default, Clone)]
pub(super) struct Stats {
    pub(super) events: u64,
    pub(super) starts: u64,
    pub(super) starts_broken: u64,
    pub(super) connections: u64,
    pub(super) commits: u64,
    pub(super) refused_commands: u64,
    pub(super) jumps: u64,
    pub(super) torn_tails: u64,
    pub(super) in_doubt: u64,
    pub(super) endings: BTreeMap<&'static str, u64>,
    pub(super) faults: BTreeSet<&'static str>,
    pub(super) verdicts: BTreeMap<&'static str, u64>,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: u64,
    pub(super) order: u64,
    pub(super) events: BinaryHeap<Reverse<Scheduled>>,
    pub(super) trace: Xxh3,
    /// Say everything on standard error, too.
    pub(super) tell: bool,
    pub(super) scenario: Scenario,
    pub(super) crashes: std::vec::IntoIter<Crash>,
    pub(super) crash: Option<Crash>,
    pub(super) dir: PathBuf,
    pub(super) disk: Rc<Disk>,
    pub(super) ledger: Ledger,
    pub(super) names: Names,
    pub(super) parts: Rc<Parts>,
    pub(super) life: u32,
    /// What the wall clock says beyond virtual time.
    pub(super) wall_offset: i64,
    /// When it was last set, in virtual time.
    pub(super) jumped_at: u64,
    pub(super) clock: Clock,
    pub(super) process: Option<Process>,
    /// A call failed as it was told to: the process must end.
    pub(super) disk_failed: bool,
    /// The last process ended in order: nothing may be in doubt.
    pub(super) drained: bool,
    pub(super) links: Vec<Link>,
    pub(super) live: BTreeMap<(usize, ConnKey), usize>,
    pub(super) flights: Vec<Option<Flight>>,
    pub(super) places: Vec<Place>,
    pub(super) finals: BTreeMap<SubmissionId, Tally>,
    pub(super) healthy: bool,
    pub(super) stats: Stats,
}

/// In production it is half a second; nothing that a promise says hangs on it.
const TICK: u64 = 30 * SECOND;

/// Told apart from the seed of everything else.
const HOURS_SEED: u64 = 0x5348_4f55_5253;

/// 2030-01-01, in milliseconds.
const WALL_BASE: i64 = 1_893_456_000_000;
/// No seed needs a tenth of it.
const EVENTS_MAX: u64 = 3_000_000;
/// A timer whose place an earlier one took comes all the same, finds nothing to do and is set again. The histories of the
/// seeds hang on that, so it stays; but while a shard looks for a slot twenty times a second for hours, as with a few
/// slots and a disk that takes half a minute for a flush, they become so many that the world does not come to its end.
/// From so many events on, which few seeds reach, they are passed over.
const STALE_AFTER: u64 = 300_000;
/// Virtual time after which a world that is not done will not be.
const TIME_MAX: u64 = 25 * 24 * 3600 * 1_000_000_000;
pub(super) const SECOND: u64 = 1_000_000_000;

impl World {
    pub(super) fn new(seed: u64, dir: PathBuf, parts: Rc<Parts>) -> io::Result<Self> {
        let mut rng = Rng::new(seed);
        let mut scenario = Scenario::draw(&mut rng);
        // From numbers of its own: the histories of seeds without hours stay what they were.
        scenario.hours = hours(&mut Rng::new(seed ^ HOURS_SEED));
        let clock = Clock::new(scenario.hours.as_deref(), &parts);
        let names = names(&mut rng, scenario.personas.len());
        let ledger = files(&mut rng, &names);
        std::fs::create_dir_all(dir.join("grave"))?;
        let disk = Rc::new(Disk::new(&dir.join("grave"), rng.next_u64()));
        let mut world = Self {
            now: SECOND,
            order: 0,
            events: BinaryHeap::new(),
            trace: Xxh3::new(),
            tell: false,
            crashes: scenario.crashes.clone().into_iter(),
            crash: None,
            places: ledger.files.iter().map(|_| Place::Unwritten).collect(),
            rng,
            scenario,
            dir,
            disk,
            ledger,
            names,
            parts,
            life: 0,
            wall_offset: WALL_BASE,
            jumped_at: 0,
            clock,
            process: None,
            disk_failed: false,
            drained: false,
            links: Vec::new(),
            live: BTreeMap::new(),
            flights: Vec::new(),
            finals: BTreeMap::new(),
            healthy: false,
            stats: Stats::default(),
        };
        world.schedule_plan();
        Ok(world)
    }

    fn schedule_plan(&mut self) {
        self.at(self.now, Event::Start);
        let within = self.scenario.drops_within.as_nanos() as u64;
        for file in 0..self.places.len() {
            let at = self.soon(within);
            self.at(at, Event::Drop(file));
        }
        let heal = self.scenario.heal_after.as_nanos() as u64;
        self.at(self.now + heal, Event::Heal);
        if self.scenario.full {
            let at = self.soon(heal / 2);
            self.at(at, Event::Full(true));
            let until = at + self.rng.below(heal as usize) as u64;
            self.at(until, Event::Full(false));
        }
        if self.scenario.jumps {
            for _ in 0..3 {
                let at = self.soon(heal);
                let by = self.draw_jump();
                self.at(at, Event::Jump(by));
            }
        }
    }

    /// Ten years, or an hour, in either direction.
    pub(super) fn draw_jump(&mut self) -> i64 {
        let years = 10 * 365 * 24 * 3_600_000;
        [years, -years, 3_600_000, -3_600_000][self.rng.below(4)]
    }

    /// Runs to the end and settles the account.
    pub(super) fn run(&mut self) -> Checked {
        while !self.is_done() {
            let Some(Reverse(next)) = self.events.pop() else {
                return Err(Broken(
                    "nothing will happen any more, and not everybody has an end".into(),
                ));
            };
            self.stats.events += 1;
            if self.stats.events > EVENTS_MAX || next.at > TIME_MAX {
                let left = self.unfinished();
                return Err(Broken(format!("it does not come to an end: {left}")));
            }
            self.now = self.now.max(next.at);
            if next.event.ends_with_process() && next.life != self.life {
                continue;
            }
            self.happen(next.event)?;
            if self.process.is_some() && (self.is_dead() || self.disk_failed) {
                self.process_died()?;
            }
        }
        self.last_look()?;
        self.ledger.settle()
    }

    /// Events until `done`, with nobody ending the process.
    pub(super) fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> Checked {
        let last = self.now + 3600 * SECOND;
        while !done(self) {
            let next = self.events.pop().filter(|Reverse(next)| next.at < last);
            let Some(Reverse(next)) = next else {
                return Err(Broken(format!(
                    "P11: no end of the drain within an hour: {}",
                    self.unfinished()
                )));
            };
            self.stats.events += 1;
            self.now = self.now.max(next.at);
            if next.event.ends_with_process() && next.life != self.life {
                continue;
            }
            self.happen(next.event)?;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Start => self.start(),
            Event::End(life) if life == self.life => self.end_now(),
            Event::End(_) => Ok(()),
            Event::Drop(file) => {
                self.places[file] = Place::New;
                self.wake_ingest();
                Ok(())
            }
            Event::Heal => self.heal(),
            Event::Jump(by) => {
                self.wall_offset += by;
                if self.scenario.hours.is_some() {
                    // A clock that stands still at the beginning of 1970 never comes to the hours of a site.
                    let first = -((self.now / 1_000_000) as i64);
                    self.wall_offset = self.wall_offset.max(first);
                }
                self.jumped_at = self.now;
                self.stats.jumps += 1;
                Ok(())
            }
            Event::Full(full) => {
                self.disk.set_full(full && !self.healthy);
                Ok(())
            }
            Event::Timer(shard) => {
                if let Some(process) = &mut self.process {
                    let state = &mut process.shards[shard];
                    if self.stats.events > STALE_AFTER && state.timer_at.as_nanos() > self.now {
                        return Ok(());
                    }
                    state.timer_at = Instant::FAR_FUTURE;
                }
                self.turn(shard, |shard, now| {
                    shard.on_timer(now);
                    shard.reckon();
                })
                .map(drop)
            }
            Event::Tick => {
                for shard in 0..self.shards() {
                    self.turn(shard, |shard, _| shard.reckon())?;
                }
                self.at(self.now + TICK, Event::Tick);
                Ok(())
            }
            Event::Commit(shard, store) => self.take_batch(shard, store),
            Event::Sign(shard) => self.turn(shard, Shard::sign_waiting).map(drop),
            Event::Store(shard, store) => self.on_store(shard, store),
            Event::Ring(shard) => self.serve_ring(shard),
            Event::Ingest => self.ingest_turn(),
            Event::SyncDrops => {
                self.sync_drops();
                Ok(())
            }
            Event::WriteLog => {
                self.ledger.written();
                Ok(())
            }
            Event::Receipt(receipt) => self.on_receipt(&receipt),
            Event::Connected(link, failure) => self.on_connected(link, failure),
            Event::Written(link) => self.on_written(link),
            Event::AtPeer(link) => self.at_peer(link),
            Event::AtEngine(link, bytes) => self.at_engine(link, &bytes),
            Event::PeerClosed(link) => self.on_peer_closed(link),
            Event::Woken(link) => self.on_woken(link),
            Event::Tls(link) => self.on_tls(link),
            Event::Dns(flight, query, packet) => self.on_dns_answer(flight, query, &packet),
            Event::DnsPoll(flight) => self.poll_dns(flight),
        }
    }

    /// Tells the ledger what is on stable storage.
    pub(super) fn note_durable(&mut self, shard: usize) {
        let Some(process) = &self.process else { return };
        let state = &process.shards[shard];
        for &log in &state.logs {
            if let Some((durable, _)) = state.shard.durability(log) {
                self.ledger.durable(log, durable);
            }
        }
    }

    pub(super) fn mono(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    pub(super) fn wall(&self) -> WallTime {
        let millis = (self.now / 1_000_000) as i64 + self.wall_offset;
        WallTime::from_unix_millis(u64::try_from(millis).unwrap_or(0))
    }

    pub(super) fn shards(&self) -> usize {
        self.process
            .as_ref()
            .map_or(0, |process| process.shards.len())
    }

    pub(super) fn is_dead(&self) -> bool {
        self.disk.is_dead()
    }

    pub(super) fn spool_dir(&self) -> PathBuf {
        self.dir.join("spool")
    }

    /// A failure of the harness's own files.
    pub(super) fn trouble(error: io::Error) -> Broken {
        Broken(format!("the harness itself: {error}"))
    }

    /// All trouble is over, every file is done, and nobody is owed anything.
    fn is_done(&self) -> bool {
        self.healthy
            && self
                .process
                .as_ref()
                .is_some_and(|process| self.is_quiet(process))
    }

    fn is_quiet(&self, process: &Process) -> bool {
        let places = self
            .places
            .iter()
            .all(|place| matches!(place, Place::Removed(..) | Place::Quarantined));
        if self.ledger.rotten {
            // What was lost can leave a submission open for ever; what is there must get its end.
            let left: usize = process
                .shards
                .iter()
                .map(|state| state.shard.census().messages)
                .sum();
            return places && left == 0 && process.shards.iter().all(|state| state.ring.is_empty());
        }
        places
            && process.ingest.is_idle()
            && process
                .shards
                .iter()
                .all(|state| state.ring.is_empty() && state.shard.census().submissions == 0)
    }

    fn unfinished(&self) -> String {
        let census: Vec<String> = self
            .process
            .iter()
            .flat_map(|process| &process.shards)
            .map(|state| {
                format!(
                    "{:?} ring {} room {}",
                    state.shard.census(),
                    state.ring.len(),
                    !state.waits_for_room
                )
            })
            .collect();
        format!("places {:?}, {}", self.places, census.join("; "))
    }
}
