//! The process's lives: how it starts, how it ends, and what the next one must find.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hikyaku::dns::Routes;
use hikyaku::mail::envelope::OnDoubt;
use hikyaku::mail::id::ShardId;
use hikyaku::outcome::Classifier;
use hikyaku::queue::retry::{RetryPolicy, SiteBackoff};
use hikyaku::recovery::{Threads, open_logs};
use hikyaku::settings::Deadlines;
use hikyaku::shard::{
    Census, ConnectionCap, DoubtPolicy, EgressSource, Gauge, Now, Recovery, Shard, ShardConfig,
    SiteLimits,
};
use hikyaku::smtp::{StreamDepth, TlsPolicy};
use hikyaku::throttle::Registry;
use hikyaku_spool::{Doubt, Options, Recovered, Spool, SpoolError, faults};
use hikyaku_tuning::LimitRules;
use hikyaku_tuning::Profiles;

use super::disk::Disk;
use super::ingest::{Ingest, Place, Synced};
use super::ledger::{Broken, Checked};
use super::scenario::{Crash, Ending, Rot, SEGMENT, When};
use super::world::{Event, Process, SECOND, ShardState, World};

/// What is expensive to make and the same for all seeds.
pub(super) struct Parts {
    pub(super) profiles: Profiles,
}

impl Parts {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            profiles: Profiles::builtin(),
        })
    }
}

impl Ending {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::PowerCut => "power cut",
            Self::Drain => "drain",
            Self::DiskError => "disk error",
        }
    }
}

impl World {
    fn options(&self) -> Options {
        Options {
            segment_bytes: SEGMENT,
            spares: 2,
            log_bytes_max: self.scenario.log_segments_max * SEGMENT,
            indoubt_slots: self.scenario.indoubt_slots,
            message_bytes_max: SEGMENT / 4,
            lock_wait: Duration::ZERO,
            spares_inline: true,
            allow_any_filesystem: true,
        }
    }

    fn rules(&self) -> LimitRules {
        let chunking = if self.scenario.chunking {
            "auto"
        } else {
            "never"
        };
        // Hours come as a limit of all sites.
        let rest = self.scenario.hours.as_deref().unwrap_or("*=");
        let all = format!("{rest},chunking={chunking}").replace("=,", "=");
        let rule = all.parse().expect("a limit");
        LimitRules::new(vec![rule], &self.parts.profiles).expect("a limit of the defaults")
    }

    /// As production builds it from settings; nobody grows old enough to expire.
    fn shard_config(&self) -> ShardConfig {
        ShardConfig {
            sources: vec![EgressSource {
                name: "0.0.0.0".into(),
                address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                ehlo: "out.test".into(),
            }],
            port: 25,
            routes: Routes::default(),
            sites: SiteLimits {
                profiles: self.parts.profiles.clone(),
                rules: self.rules(),
            },
            retry: RetryPolicy {
                expires_after: Duration::from_secs(60 * 24 * 3600),
                ..RetryPolicy::default()
            },
            backoff: SiteBackoff::default(),
            doubt: DoubtPolicy {
                on_doubt: OnDoubt::Retry,
                // Here processes end for no fault of a message.
                crashes_max: 0,
            },
            stream_depth: StreamDepth::new(self.scenario.stream_depth),
            stream_auto: self.scenario.stream_auto,
            strict: self.scenario.strict,
            tls: TlsPolicy::Opportunistic,
            deadlines: Deadlines::default(),
            signer: None,
            classifier: Classifier::builtin(),
            connections: ConnectionCap::new(8),
            suppressed: None,
            log_attempts: true,
        }
    }

    /// A new process on what the last one left.
    pub(super) fn start(&mut self) -> Checked {
        self.life += 1;
        self.stats.starts += 1;
        self.note(&[b"start"]);
        self.disk.revive();
        self.disk_failed = false;
        if self.crash.is_none() && !self.healthy {
            self.crash = self.crashes.next();
        }
        match self.crash {
            Some(Crash {
                ending: Ending::DiskError,
                when: When::Call(calls),
            }) => self.disk.fail_after(calls),
            Some(Crash {
                ending: Ending::Kill | Ending::PowerCut,
                when: When::Call(calls),
            }) => self.disk.end_after(calls),
            _ => {}
        }
        let shards = if self.scenario.reshard || self.stats.starts == 1 {
            1 + self.rng.below(3)
        } else {
            2
        };
        let shards = u16::try_from(shards).unwrap_or(1);
        match self.open(shards) {
            Ok(()) => {}
            Err(error) => return self.did_not_start(&error),
        }
        self.at(self.now, Event::Tick);
        if let Some(Crash { when, ending }) = self.crash {
            let after = match (when, ending) {
                (When::After(after), _) => after,
                // There is no call at which a drain begins.
                (When::Call(calls), Ending::Drain) => Duration::from_millis(calls),
                _ => return Ok(()),
            };
            self.at(self.now + after.as_nanos() as u64, Event::End(self.life));
        }
        Ok(())
    }

    fn open(&mut self, shards: u16) -> Result<(), Failed> {
        let spool = Spool::open(&self.spool_dir(), &self.options())?;
        if self.rng.below(50) == 0 {
            match Spool::open(&self.spool_dir(), &self.options()) {
                Err(SpoolError::Locked { .. }) => {}
                _ if self.is_dead() || self.disk.has_failed() => {}
                other => {
                    return Err(Failed::Broken(Broken(format!(
                        "P12: a second engine gets {other:?}"
                    ))));
                }
            }
        }
        let (logs, accepted, _) = open_logs(&spool, shards, self.wall(), Threads::One)?;
        if self.is_dead() {
            // It ended in the middle: what it could not read any more is no finding.
            return Err(Failed::Died);
        }
        if self.rng.below(2) == 0 {
            self.disk.write_back_maps(&self.spool_dir());
        }
        for (log, recovered) in &logs {
            self.judge_recovery(log.id(), recovered)?;
        }
        let config = self.shard_config();
        let config = Arc::new(config);
        let registry = Arc::new(Registry::new());
        let accepted = Arc::new(accepted);
        let now = Now {
            mono: self.mono(),
            wall: self.wall(),
        };
        let mut of_shard: Vec<Vec<Recovery>> = (0..shards).map(|_| Vec::new()).collect();
        for (log, recovered) in logs {
            of_shard[usize::from(log.id() % shards)].push(Recovery {
                log,
                recovered,
                accepted: Arc::clone(&accepted),
            });
        }
        let mut states = Vec::new();
        for (id, mut recoveries) in (0..shards).zip(of_shard) {
            recoveries.sort_by_key(|recovery| recovery.log.id());
            let mut shard = Shard::new(
                ShardId(id),
                Arc::clone(&config),
                Arc::clone(&registry),
                Arc::new(Gauge::default()),
                now,
                self.rng.next_u64(),
            );
            let logs = recoveries
                .iter()
                .map(|recovery| recovery.log.id())
                .collect();
            for recovery in recoveries {
                shard.restore(now, recovery);
            }
            states.push(ShardState::new(shard, logs));
        }
        self.process = Some(Process {
            shards: states,
            ingest: Ingest::default(),
            draining: false,
            _spool: spool,
        });
        if self.is_dead() {
            return Ok(()); // It ended in the middle; the world notices.
        }
        let accepted: BTreeMap<_, _> = accepted
            .iter()
            .map(|(id, acceptance)| (*id, Arc::clone(acceptance)))
            .collect();
        self.restore_ingest(&accepted);
        for shard in 0..usize::from(shards) {
            self.after_turn(shard)?;
        }
        // As production: who may get a second copy stands in the log before the first commit.
        self.ledger.written();
        Ok(())
    }

    /// What recovery says of one log, held against how the last process ended.
    fn judge_recovery(&mut self, log: u16, recovered: &Recovered) -> Checked {
        let report = &recovered.report;
        self.note(&[
            b"recovered",
            &report.last_seq.to_le_bytes(),
            &report.torn_bytes.to_le_bytes(),
        ]);
        let sent = recovered
            .in_doubt
            .iter()
            // Those noted already lost their connection long before, and a drain writes every line.
            .filter(|doubt| doubt.state == Doubt::Sent && !(self.drained && doubt.noted))
            .count();
        self.stats.in_doubt += sent as u64;
        self.stats.torn_tails += u64::from(report.torn_bytes > 0);
        for damage in &report.damage {
            let name = match damage.gap.map(|gap| gap.verdict) {
                None => "header rebuilt",
                Some(hikyaku_spool::inspect::Verdict::Corrupt) => "corrupt",
                Some(hikyaku_spool::inspect::Verdict::LostAcknowledged) => "lost acknowledged",
                Some(hikyaku_spool::inspect::Verdict::ApplyAfterGap) => "gap",
                Some(_) => "other",
            };
            *self.stats.verdicts.entry(name).or_default() += 1;
        }
        if report.torn_bytes > 0 {
            *self.stats.verdicts.entry("torn tail").or_default() += 1;
        }
        self.ledger.named |= !report.damage.is_empty() || report.in_doubt_lost;
        if !self.ledger.rotten && (!report.damage.is_empty() || report.in_doubt_lost) {
            return Err(Broken(format!(
                "P6: the disk is healthy, and log {log} is said to be damaged: {report:?}"
            )));
        }
        if self.drained && !self.ledger.rotten && (sent > 0 || report.torn_bytes > 0) {
            return Err(Broken(format!(
                "P11: after a drain, log {log} has {sent} in doubt and {} torn bytes",
                report.torn_bytes
            )));
        }
        Ok(())
    }

    fn did_not_start(&mut self, error: &Failed) -> Checked {
        let text = match error {
            Failed::Broken(broken) => return Err(broken.clone()),
            Failed::Spool(error) => error.to_string(),
            Failed::Died => String::new(),
        };
        self.stats.starts_broken += 1;
        if self.is_dead() || self.disk.has_failed() {
            return self.process_died();
        }
        if self.disk_is_full() {
            // It says so and ends; somebody makes room, and starts it again.
            return self.start_again();
        }
        if self.ledger.rotten {
            // Refused with a sentence: detected. There is nothing more to be seen here.
            self.ledger.named = true;
            self.places.fill(Place::Quarantined);
            for file in &mut self.ledger.files {
                file.valid = false;
            }
            std::fs::remove_dir_all(self.spool_dir()).map_err(World::trouble)?;
            return self.start_again();
        }
        Err(Broken(format!("P11: it does not start: {text}")))
    }

    fn disk_is_full(&mut self) -> bool {
        self.disk.counts().full > 0 && self.scenario.full && !self.healthy
    }

    /// The plan's next end is due.
    pub(super) fn end_now(&mut self) -> Checked {
        if self.process.is_none() {
            return Ok(());
        }
        match self.crash.map(|crash| crash.ending) {
            Some(Ending::Kill | Ending::PowerCut) => {
                self.disk.kill();
                Ok(())
            }
            Some(Ending::DiskError) => {
                self.disk.fail_after(1 + self.rng.below(20) as u64);
                Ok(())
            }
            Some(Ending::Drain) => self.drain_and_stop(),
            None => Ok(()),
        }
    }

    fn drain_and_stop(&mut self) -> Checked {
        self.drain()?;
        if self.is_dead() || self.disk_failed {
            return Ok(());
        }
        self.crash = None;
        *self.stats.endings.entry(Ending::Drain.name()).or_default() += 1;
        self.process = None;
        self.drained = true;
        self.ledger.written();
        self.ledger.process_ended(false);
        self.cut_links()?;
        self.start_again()
    }

    fn drain(&mut self) -> Checked {
        if let Some(process) = &mut self.process {
            process.draining = true;
            process.ingest.stopped = true;
        }
        for shard in 0..self.shards() {
            self.turn(shard, Shard::drain)?;
        }
        self.run_until(|world| {
            world.is_dead()
                || world.disk_failed
                || world
                    .process
                    .iter()
                    .flat_map(|process| &process.shards)
                    .all(|state| state.shard.is_drained())
        })
    }

    /// The process is no more: what it had in memory is gone, and perhaps more than that.
    pub(super) fn process_died(&mut self) -> Checked {
        let ending = if self.disk_failed || self.disk.has_failed() {
            Ending::DiskError
        } else {
            self.crash.map_or(Ending::Kill, |crash| crash.ending)
        };
        self.note(&[b"ended", ending.name().as_bytes()]);
        *self.stats.endings.entry(ending.name()).or_default() += 1;
        self.disk.kill();
        self.tear_writes().map_err(World::trouble)?;
        self.disk.kill();
        self.process = None;
        self.crash = None;
        self.drained = false;
        self.cut_links()?;
        self.ledger
            .process_ended(ending == Ending::PowerCut && !self.scenario.strict);
        if ending == Ending::PowerCut {
            self.disk
                .power_cut(&self.spool_dir())
                .map_err(World::trouble)?;
            for place in &mut self.places {
                if let Place::Removed(submission, Synced::No) = *place
                    && self.rng.below(2) == 0
                {
                    *place = Place::Claimed(submission);
                }
            }
        }
        if self.scenario.rot == Rot::Yes && !self.healthy && self.rng.below(2) == 0 {
            self.ledger.rotten = true;
            self.disk.rot(&self.spool_dir()).map_err(World::trouble)?;
        }
        self.start_again()
    }

    /// A while later, perhaps with another idea of what time it is.
    fn start_again(&mut self) -> Checked {
        if self.scenario.jumps && self.rng.below(2) == 0 {
            self.wall_offset += self.draw_jump();
            self.stats.jumps += 1;
        }
        if self.scenario.rot == Rot::Yes && !self.healthy && self.rng.below(3) == 0 {
            self.ledger.rotten = true;
            self.disk.lie();
        }
        let down = [SECOND, 60 * SECOND, 3600 * SECOND][self.rng.below(3)];
        let at = self.soon(down);
        self.at(at, Event::Start);
        Ok(())
    }

    /// Nothing goes wrong any more.
    pub(super) fn heal(&mut self) -> Checked {
        self.healthy = true;
        self.crash = None;
        self.disk.set_full(false);
        if self.process.is_some() {
            self.disk.revive();
        }
        Ok(())
    }

    /// A world at rest: a drained shard remembers nothing, and the next process finds nothing to do.
    pub(super) fn last_look(&mut self) -> Checked {
        // Idle connections end, and what nobody needs is forgotten; a drain would leave it, since the process ends.
        let rested = self.now + REST;
        self.run_until(|world| world.now >= rested)?;
        if let Some(process) = &self.process
            && !self.ledger.rotten
        {
            for state in &process.shards {
                let census = state.shard.census();
                if census != Census::default() {
                    return Err(Broken(format!("P7: a shard at rest remembers {census:?}")));
                }
            }
        }
        self.drain()?;
        self.process = None;
        let spool = Spool::open(&self.spool_dir(), &self.options())
            .map_err(|error| Broken(format!("P11: {error}")))?;
        let ids = spool
            .log_ids()
            .map_err(|error| Broken(format!("P11: {error}")))?;
        for id in ids {
            let (log, recovered) = spool
                .open_log(id, self.wall().unix_millis())
                .map_err(|error| Broken(format!("P11: {error}")))?;
            let left = log.recipients_left();
            if !self.ledger.rotten
                && (left > 0 || !recovered.in_doubt.is_empty() || !recovered.submissions.is_empty())
            {
                return Err(Broken(format!(
                    "P1: log {id} ends with {left} recipients and {:?}",
                    recovered.submissions
                )));
            }
        }
        Ok(())
    }
}

/// Longer than anything is kept that nobody needs.
const REST: u64 = 900 * SECOND;

/// Why there is no process.
enum Failed {
    Spool(SpoolError),
    Broken(Broken),
    /// The disk knows of its end.
    Died,
}

impl From<SpoolError> for Failed {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

impl From<Broken> for Failed {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Installs the observer of this thread, and takes it away again.
pub(super) struct Watch;

impl Watch {
    pub(super) fn new(disk: &Rc<Disk>, seed: u64) -> Self {
        faults::install_here(Some(Rc::clone(disk) as Rc<dyn faults::Observer>));
        faults::seed_here(Some(seed));
        Self
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        faults::install_here(None);
        faults::seed_here(None);
    }
}
