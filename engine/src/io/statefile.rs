//! The state file: `state.json` in the log directory, replaced as a whole every few seconds in which
//! something changed, and at the end. And the voice of conditions: each is said once, in the log and
//! on standard error, when it begins and when it is over.
//!
//! A thread of its own that only reads counters. A file that cannot be written is tried again; that
//! is said once, and nothing waits for it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hikyaku_spool::faults::{Call, before};

use super::admission::Shut;
use super::clock;
use super::ingest::IngestState;
use super::logfile::LogSender;
use super::socket;
use crate::budget::Memory;
use crate::log::record::{EngineEvent, EngineRecord, LineWriter};
use crate::shard::{Gauge, ShardConfig};
use crate::status::condition::ClockWatch;
use crate::status::{Change, Conditions, Document, Numbers, Readings};
use crate::throttle::Registry;
use crate::time::{Instant, WallTime};

/// Its name.
pub const FILE: &str = "state.json";

/// What is read.
#[derive(Debug)]
pub struct Sources {
    /// Directory that the file lies in.
    pub dir: PathBuf,
    /// For the free space of its file system.
    pub spool: PathBuf,
    /// One per shard.
    pub gauges: Vec<Arc<Gauge>>,
    /// Of ingest.
    pub ingest: Arc<IngestState>,
    /// For the number of connections that may be open.
    pub config: Arc<ShardConfig>,
    /// For the number of paths.
    pub registry: Arc<Registry>,
    /// For the budget.
    pub memory: Memory,
    /// Recipients that lay in the spool at the start.
    pub recovered: u64,
}

/// The thread.
#[derive(Debug)]
pub struct StateFile {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    draining: AtomicU8,
    stop: AtomicBool,
}

impl StateFile {
    /// Writes the file for the first time and starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(sources: Sources, log: LogSender) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(sources, log);
        writer.look("running");
        let thread = thread::Builder::new().name("hikyaku-state".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                while !shared.stop.load(Relaxed) {
                    let draining = shared.draining.load(Relaxed) > 0;
                    writer.look(if draining { "draining" } else { "running" });
                    thread::park_timeout(LOOK);
                }
                writer.last();
            }
        })?;
        Ok(Self { shared, thread })
    }

    /// The engine takes nothing more.
    pub fn draining(&self) {
        self.shared.draining.store(1, Relaxed);
        self.thread.thread().unpark();
    }

    /// The engine has stopped: writes the last state, and ends.
    pub fn finish(self) {
        self.shared.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}

struct Writer {
    sources: Sources,
    log: LogSender,
    started: WallTime,
    conditions: Conditions,
    clock: ClockWatch,
    /// What was written last, and when.
    written: Numbers,
    written_at: Instant,
    /// Delivered and accepted then.
    before: (u64, u64),
    room: Lasting,
    disk: Lasting,
    slots_refused: u64,
    spare: Option<File>,
    complained: bool,
}

/// Something that is only worth a word when it lasts.
#[derive(Debug, Default)]
struct Lasting(Option<Instant>);

impl Lasting {
    fn look(&mut self, now: Instant, bad: bool) -> bool {
        if !bad {
            self.0 = None;
            return false;
        }
        now.since(*self.0.get_or_insert(now)) >= LASTS
    }
}

impl Writer {
    fn new(sources: Sources, log: LogSender) -> Self {
        let (now, wall) = (clock::now(), clock::wall());
        Self {
            sources,
            log,
            started: wall,
            conditions: Conditions::default(),
            clock: ClockWatch::new(now, wall),
            written: Numbers::default(),
            written_at: Instant::default(),
            before: (0, 0),
            room: Lasting::default(),
            disk: Lasting::default(),
            slots_refused: 0,
            spare: spare(),
            complained: false,
        }
    }

    fn look(&mut self, state: &str) {
        let (now, wall) = (clock::now(), clock::wall());
        let readings = self.readings(now, wall);
        let changes = self.conditions.look(now, wall, &readings);
        for change in &changes {
            self.say(wall, change);
        }
        let since = now.since(self.written_at);
        if changes.is_empty() && since < WRITE_EVERY && self.written_at != Instant::default() {
            return;
        }
        let numbers = self.numbers();
        let resident = self.written.memory_resident;
        let same = self.written
            == Numbers {
                memory_resident: resident,
                spool_free_bytes: self.written.spool_free_bytes,
                ..numbers.clone()
            };
        if !changes.is_empty() || !same || since >= WRITE_AT_LEAST {
            self.write(now, wall, state, numbers);
        }
    }

    fn last(&mut self) {
        let numbers = self.numbers();
        self.write(clock::now(), clock::wall(), "stopped", numbers);
    }

    fn readings(&mut self, now: Instant, wall: WallTime) -> Readings {
        let gauges = &self.sources.gauges;
        let any = |counter: fn(&Gauge) -> &AtomicU64| {
            gauges.iter().any(|gauge| counter(gauge).load(Relaxed) > 0)
        };
        let sockets = any(|gauge| &gauge.sockets_short) || socket::is_short();
        let tight = self.room.look(now, any(|gauge| &gauge.room));
        let trouble = gauges.iter().find_map(|gauge| gauge.trouble());
        let slots = sum(gauges, |gauge| &gauge.slots_refused);
        let refused = std::mem::replace(&mut self.slots_refused, slots) != slots;
        let ingest = &self.sources.ingest;
        let (lost, losing) = self.log.losses();
        let moved = self.clock.look(now, wall);
        Readings {
            descriptors: sockets.then(|| {
                "no socket could be made, for want of descriptors or memory: connections wait".into()
            }),
            spool: trouble.or_else(|| {
                tight.then(|| "no room for new jobs: they wait in the drop directory".into())
            }),
            memory: (ingest.door.shut() == Some(Shut::Memory)).then(|| {
                format!(
                    "what waits takes the {} MiB that are meant for it: new jobs wait in the drop directory",
                    self.sources.memory.waiting >> 20
                )
            }),
            disk: self.disk.look(now, refused).then(|| {
                "every in-doubt slot waits for a commit: new transactions wait for the disk".into()
            }),
            log: losing.then(|| {
                format!("the log cannot be written: lines are dropped ({lost} so far), deliveries go on")
            }),
            drop_directory: ingest.gone.load(Relaxed).then(|| {
                "the drop directory was removed or replaced: nothing new comes in".into()
            }),
            clock: moved.map(|moved| {
                format!(
                    "the wall clock jumped by {} s: times that are shown and written follow it, decisions do not",
                    moved / 1000
                )
            }),
        }
    }

    fn numbers(&self) -> Numbers {
        let sources = &self.sources;
        let sum = |counter| sum(&sources.gauges, counter);
        let most = |counter: fn(&Gauge) -> &AtomicU64| {
            let each = sources.gauges.iter().map(|it| counter(it).load(Relaxed));
            each.max().unwrap_or(0)
        };
        Numbers {
            waiting: sum(|gauge| &gauge.waiting),
            deferred_waiting: sum(|gauge| &gauge.deferred_waiting),
            accepted: sum(|gauge| &gauge.accepted) + sources.recovered,
            delivered: sum(|gauge| &gauge.delivered),
            bounced: sum(|gauge| &gauge.bounced),
            expired: sum(|gauge| &gauge.expired),
            deferred_attempts: sum(|gauge| &gauge.deferred),
            possible_duplicates: sum(|gauge| &gauge.possible_duplicates),
            connections_open: sum(|gauge| &gauge.connections),
            connections_max: sources.config.connections.max().into(),
            connections_opened: sum(|gauge| &gauge.connects),
            domains: sum(|gauge| &gauge.domains),
            sites: sum(|gauge| &gauge.sites),
            paths: sources.registry.len() as u64,
            spool_room: most(|gauge| &gauge.room),
            spool_free_bytes: rustix::fs::statvfs(&sources.spool)
                .map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize)),
            spool_commits: sum(|gauge| &gauge.commits),
            spool_bytes: sum(|gauge| &gauge.spool_bytes),
            memory_budget: sources.memory.total,
            memory_waiting_max: sources.memory.waiting,
            memory_waiting: sum(|gauge| &gauge.memory),
            memory_resident: resident(),
            log_lines_lost: self.log.losses().0,
            files_accepted: sources.ingest.accepted.load(Relaxed),
            files_refused: sources.ingest.refused.load(Relaxed),
            files_claimed: sources.ingest.door.shut().is_none()
                && !sources.ingest.gone.load(Relaxed),
        }
    }

    fn write(&mut self, now: Instant, wall: WallTime, state: &str, numbers: Numbers) {
        let seconds = now.since(self.written_at).as_secs_f64().max(1e-3);
        let rate = |after: u64, before: u64| {
            #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
            let count = after.saturating_sub(before) as f64;
            count / seconds
        };
        let first = self.written_at == Instant::default();
        let rates = if first {
            (0.0, 0.0)
        } else {
            (
                rate(numbers.delivered, self.before.0),
                rate(numbers.accepted, self.before.1),
            )
        };
        let document = Document {
            state,
            time: wall,
            started: self.started,
            now,
            shards: u16::try_from(self.sources.gauges.len()).unwrap_or(u16::MAX),
            numbers: &numbers,
            rates,
            conditions: self.conditions.in_force(),
        };
        let text = document.to_json();
        self.before = (numbers.delivered, numbers.accepted);
        self.written = numbers;
        self.written_at = now;
        let mut replaced = replace(&self.sources.dir, text.as_bytes());
        if replaced.as_ref().is_err_and(socket::is_shortage) {
            // That there are no descriptors has to be shown, too.
            self.spare = None;
            replaced = replace(&self.sources.dir, text.as_bytes());
        }
        if self.spare.is_none() {
            self.spare = spare();
        }
        match replaced {
            Ok(()) => self.complained = false,
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(path = %self.sources.dir.join(FILE).display(), %error, "the state file cannot be written; `hikyaku status` shows an old one");
                }
            }
        }
    }

    fn say(&self, wall: WallTime, change: &Change) {
        let (event, detail) = match change {
            Change::Began(kind, why) => {
                tracing::warn!(condition = kind.name(), "{why}: {}", kind.remedy());
                (EngineEvent::Condition { name: kind.name() }, why.clone())
            }
            Change::Over(kind, lasted) => {
                let seconds = lasted.as_secs();
                tracing::info!(condition = kind.name(), "over after {seconds} s");
                let event = EngineEvent::ConditionOver { name: kind.name() };
                (event, format!("after {seconds} s"))
            }
        };
        let mut line = self.log.buffer();
        let record = EngineRecord {
            time: wall,
            event,
            shard: None,
            detail: Some(detail.as_bytes()),
        };
        LineWriter::default().engine(&record, &mut line);
        self.log.send(line);
    }
}

fn sum(gauges: &[Arc<Gauge>], counter: fn(&Gauge) -> &AtomicU64) -> u64 {
    gauges
        .iter()
        .map(|gauge| counter(gauge).load(Relaxed))
        .sum()
}

/// Readers see the old file or the new one, whole.
fn replace(dir: &Path, text: &[u8]) -> io::Result<()> {
    let (path, new) = (dir.join(FILE), dir.join("state.json.new"));
    before(Call::Create(&new))?;
    std::fs::write(&new, text)?;
    before(Call::Rename(&new, &path))?;
    std::fs::rename(&new, &path)
}

/// A descriptor kept for the moment in which there is no other.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Memory of this process that is not the spool's (whose pages the kernel takes back as it likes).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

/// How often counters are looked at, and conditions judged.
const LOOK: Duration = Duration::from_millis(250);
/// The file is replaced no more often, unless a condition changes; and no less often than this.
const WRITE_EVERY: Duration = Duration::from_secs(2);
const WRITE_AT_LEAST: Duration = Duration::from_secs(60);
/// A tight spool and a slow disk are worth a word when they last.
const LASTS: Duration = Duration::from_secs(5);
