//! One cycle: start the engine, feed it, end it, look.

use std::error::Error;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use hikyaku::io::faults::POINTS;

use super::stage::Launch;
use super::watch::recovery;
use super::{Epoch, Run};
use crate::report::Spread;

/// When the engine ends.
#[derive(Debug, Clone, Copy)]
enum Plan {
    /// So long after its start: host check, recovery, ingest.
    Start(Duration),
    /// So long after the first delivery.
    Delivery(Duration),
    /// By itself, at a point.
    Point {
        index: usize,
        number: u64,
        /// It is asked to end after the first delivery, because the point lies on that way.
        stop: bool,
    },
}

impl Run<'_> {
    fn plan(&mut self) -> Plan {
        if self.random.below(100) < u64::from(self.args.points) {
            let (index, number) = self.points.turn(&mut self.random);
            let name = POINTS[index].0;
            let stop = name.starts_with("drain.") || name == "ingest.unclaimed";
            return Plan::Point {
                index,
                number,
                stop,
            };
        }
        let micros = |ms: f64| (ms * 1500.0) as u64 + 1;
        let usual_ms =
            Spread::of(self.first_delivery.iter().copied()).map_or(200.0, |spread| spread.median);
        // Three of ten at any moment since the start, the others some moments after the first delivery.
        if self.random.below(10) < 3 {
            Plan::Start(Duration::from_micros(self.random.below(micros(usual_ms))))
        } else {
            Plan::Delivery(Duration::from_micros(self.random.below(AFTER_FIRST_US)))
        }
    }

    /// Start, feed, kill.
    pub(super) fn cycle(
        &mut self,
        epoch: &mut Epoch,
        cycle: u32,
        address: SocketAddr,
        share: u64,
    ) -> Result<(), Box<dyn Error>> {
        let plan = self.plan();
        let mut files = epoch.ground.make_files(&mut self.random, share);
        if let Plan::Point { index, .. } = plan
            && POINTS[index].0 == "ingest.quarantined"
        {
            files.insert(0, epoch.ground.make_bad_file());
        }
        // Half of them lie there at the start; the others come while it runs.
        let during = files.split_off(files.len() / 2);
        for (name, bytes) in files {
            self.drop_file(epoch, &name, &bytes)?;
        }
        let mut during = during.into_iter();
        let before = epoch.watch.delivered()?;
        let spec = match plan {
            Plan::Point { index, number, .. } => Some(format!("kill={}:{number}", POINTS[index].0)),
            _ => None,
        };
        let mut engine = self.stage.start_engine(&Launch {
            address,
            shards: match self.args.shards {
                0 => 1 + cycle % 3,
                shards => u32::from(shards),
            },
            once: false,
            rate: "unlimited",
            faults: spec.as_deref(),
        })?;
        let mut first = None;
        let mut quiet = (before, Instant::now());
        let mut asked = false;
        let mut hit = false;
        loop {
            if let Some((name, bytes)) = during.next() {
                self.drop_file(epoch, &name, &bytes)?;
            }
            let delivered = epoch.watch.delivered()?;
            let elapsed = engine.started.elapsed();
            if first.is_none() && delivered > before {
                first = Some(elapsed);
            }
            if delivered != quiet.0 {
                quiet = (delivered, Instant::now());
            }
            let due = match plan {
                Plan::Start(after) => elapsed >= after,
                Plan::Delivery(after) => first.is_some_and(|first| elapsed >= first + after),
                Plan::Point { stop, .. } => {
                    if stop && !asked && first.is_some() {
                        engine.terminate();
                        asked = true;
                    }
                    let begun = first.is_some() || elapsed >= POINT_MIN;
                    begun && quiet.1.elapsed() >= QUIET && during.len() == 0
                }
            };
            if let Some(status) = engine.ended()? {
                match plan {
                    Plan::Point { .. } if status.signal() == Some(SIGKILL) => hit = true,
                    Plan::Point { stop: true, .. } if status.success() => {}
                    _ => {
                        let words = engine.words();
                        self.account.fault(format!(
                            "cycle {cycle}: the engine ended by itself with {status}: {words}"
                        ));
                    }
                }
                break;
            }
            if due || elapsed >= IDLE_MAX {
                break;
            }
            let rest = match plan {
                Plan::Start(after) => after.saturating_sub(elapsed),
                _ => POLL,
            };
            std::thread::sleep(rest.clamp(Duration::from_micros(100), POLL));
        }
        engine.kill()?;
        for (name, bytes) in during {
            self.drop_file(epoch, &name, &bytes)?;
        }
        if let Plan::Point { index, .. } = plan {
            self.points.note(index, hit);
            self.account.kills_at_points += u64::from(hit);
        }
        if epoch.watch.delivered()? == before {
            self.account.kills_before_delivery += 1;
        } else if (epoch.watch.seen.len() as u64) < epoch.ground.deliverable {
            self.account.kills_in_delivery += 1;
        } else {
            self.account.kills_idle += 1;
        }
        if let Some(first) = first {
            self.first_delivery.push_back(first.as_secs_f64() * 1e3);
            if self.first_delivery.len() > FIRSTS_KEPT {
                self.first_delivery.pop_front();
            }
        }
        let said = engine.said();
        self.note_recovery(epoch, cycle, &said);
        let kill = epoch.watch.at_kill(&self.stage, cycle)?;
        self.account.note(kill);
        self.account
            .cycle_ms
            .push(engine.started.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }

    fn drop_file(&self, epoch: &mut Epoch, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.stage.drop_file(name, bytes, false)?;
        if epoch.ground.files.contains_key(name) {
            epoch.watch.dropped(name);
        }
        Ok(())
    }

    /// What a start said of itself.
    pub(super) fn note_recovery(&mut self, epoch: &Epoch, cycle: u32, said: &[super::stage::Said]) {
        let recovery = recovery(cycle, said, epoch.ground.bad_files > 0);
        if let Some(at) = recovery.at {
            self.account.recovery_ms.push(at.as_secs_f64() * 1e3);
        }
        self.account.torn_bytes += recovery.torn_bytes;
        self.account.faults.extend(recovery.faults);
    }
}

const SIGKILL: i32 = 9;
/// Kills after the first delivery come within this time.
const AFTER_FIRST_US: u64 = 60_000;
/// An engine without anything to deliver is killed then.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// A point that is not reached: nothing was delivered for so long, and the engine had this time to begin.
const QUIET: Duration = Duration::from_millis(80);
const POINT_MIN: Duration = Duration::from_millis(1000);
const POLL: Duration = Duration::from_millis(1);
const FIRSTS_KEPT: usize = 50;
