//! Kills while a spool is being recovered: many in a row on one spool, then a start that is let through.
//!
//! The spool is filled first: every file accepted, some recipients delivered, slots in doubt, the rest waiting behind a low
//! rate. Then each start is killed before it is done with its recovery, in turn at a random microsecond and at a point of
//! the recovery. Nothing may be lost or doubled by that, and nothing named that was not in doubt.

use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use hikyaku::io::faults::POINTS;

use super::account::Account;
use super::points::Points;
use super::stage::Launch;
use super::truth::Ground;
use super::{Epoch, Run};

impl Run<'_> {
    /// `kills` starts that do not come through, and one that does.
    pub(super) fn during_recovery(mut self, kills: u32) -> Result<Account, Box<dyn Error>> {
        let mut epoch = self.begin_epoch(Ground::default())?;
        self.fill(&mut epoch)?;
        let points: Vec<String> = POINTS
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .filter(|name| {
                let begins = [
                    "start.",
                    "commit.",
                    "slot.freed",
                    "spool.",
                    "shard.before-mark",
                ];
                begins.iter().any(|begin| name.starts_with(begin))
            })
            .collect();
        self.points = Points::new(&points)?;
        let whole = self.measure_recovery(&mut epoch)?;
        let before = epoch.watch.delivered()?;
        for kill in 0..kills {
            if Instant::now() >= self.deadline {
                self.account
                    .fault(format!("out of time after {kill} kills"));
                break;
            }
            let begun = Instant::now();
            if kill % 2 == 0 {
                self.kill_after(&mut epoch, kill, whole)?;
            } else {
                self.kill_at_point(&mut epoch, kill, 2 * whole + POINT_WAIT)?;
            }
            self.account.kills_before_delivery += 1;
            self.account
                .cycle_ms
                .push(begun.elapsed().as_secs_f64() * 1e3);
            let seen = epoch.watch.at_kill(&self.stage, kill)?;
            self.account.note(seen);
        }
        let during = epoch.watch.delivered()? - before;
        self.finish(&mut epoch, kills)?;
        self.account.more = vec![
            ("recovery_ms", whole.as_secs_f64() * 1e3),
            ("delivered_while_filling", before as f64),
            ("delivered_between_kills", during as f64),
        ];
        self.settle(epoch)?;
        self.account.points = self
            .points
            .tallies()
            .filter(|(_, tally)| tally.tried > 0)
            .collect();
        self.account.seconds = self.begun.elapsed().as_secs_f64();
        Ok(self.account)
    }

    fn launch<'b>(
        &self,
        epoch: &Epoch,
        rate: &'b str,
        faults: Option<&'b str>,
    ) -> std::io::Result<super::stage::Engine> {
        self.stage.start_engine(&Launch {
            address: epoch.sink.address(),
            shards: u32::from(self.args.shards.max(1)),
            once: false,
            rate,
            faults,
        })
    }

    /// Everything accepted, little delivered, some of it in doubt.
    fn fill(&mut self, epoch: &mut Epoch) -> Result<(), Box<dyn Error>> {
        let count = self.args.messages.unwrap_or(5_000);
        for (name, bytes) in epoch.ground.make_files(&mut self.random, count) {
            self.stage.drop_file(&name, &bytes, false)?;
            epoch.watch.dropped(&name);
        }
        let mut engine = self.launch(epoch, SLOWLY, None)?;
        let limit = Instant::now() + Duration::from_secs(120);
        while epoch.watch.without_receipt(&self.stage) > 0 || epoch.watch.delivered()? == 0 {
            if engine.ended()?.is_some() || Instant::now() >= limit {
                let words = engine.words();
                return Err(format!("the spool is not filled in time: {words}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.kill()?;
        let seen = epoch.watch.at_kill(&self.stage, 0)?;
        self.account.note(seen);
        // What waits behind the dot is what makes a recovery interesting.
        let mut engine = self.launch(epoch, SLOWLY, Some("kill=conn.after-dot:3"))?;
        engine.wait(Instant::now() + Duration::from_secs(20))?;
        engine.kill()?;
        let said = engine.said();
        self.note_recovery(epoch, 0, &said);
        let seen = epoch.watch.at_kill(&self.stage, 0)?;
        self.account.note(seen);
        Ok(())
    }

    /// How long a recovery takes here, by a start that ends itself behind it.
    fn measure_recovery(&mut self, epoch: &mut Epoch) -> Result<Duration, Box<dyn Error>> {
        let mut engine = self.launch(epoch, SLOWLY, Some("kill=start.done:1"))?;
        let status = engine.wait(Instant::now() + Duration::from_secs(60))?;
        let whole = engine.started.elapsed();
        engine.kill()?;
        if status.and_then(|status| status.signal()) != Some(9) {
            let words = engine.words();
            return Err(format!("the recovery does not end: {words}").into());
        }
        let said = engine.said();
        self.note_recovery(epoch, 0, &said);
        let seen = epoch.watch.at_kill(&self.stage, 0)?;
        self.account.note(seen);
        Ok(whole)
    }

    fn kill_after(
        &mut self,
        epoch: &mut Epoch,
        kill: u32,
        whole: Duration,
    ) -> Result<(), Box<dyn Error>> {
        let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX);
        let after = Duration::from_micros(self.random.below(micros));
        let mut engine = self.launch(epoch, SLOWLY, None)?;
        std::thread::sleep(after.saturating_sub(engine.started.elapsed()));
        if let Some(status) = engine.ended()? {
            let words = engine.words();
            self.account.fault(format!(
                "start {kill} ended by itself with {status}: {words}"
            ));
        }
        engine.kill()?;
        let said = engine.said();
        self.note_recovery(epoch, kill, &said);
        Ok(())
    }

    fn kill_at_point(
        &mut self,
        epoch: &mut Epoch,
        kill: u32,
        patience: Duration,
    ) -> Result<(), Box<dyn Error>> {
        let (index, number) = self.points.turn(&mut self.random);
        let spec = format!("kill={}:{number}", POINTS[index].0);
        let mut engine = self.launch(epoch, SLOWLY, Some(&spec))?;
        let status = engine.wait(Instant::now() + patience)?;
        engine.kill()?;
        let hit = status.is_some_and(|status| status.signal() == Some(9));
        if let Some(status) = status
            && !hit
        {
            let words = engine.words();
            self.account.fault(format!(
                "start {kill} ({spec}) ended by itself with {status}: {words}"
            ));
        }
        self.points.note(index, hit);
        self.account.kills_at_points += u64::from(hit);
        let said = engine.said();
        self.note_recovery(epoch, kill, &said);
        Ok(())
    }
}

/// Rate that leaves most recipients waiting.
const SLOWLY: &str = "20/s";
/// A point that is not reached so long after two recoveries' time is not on the way of this one.
const POINT_WAIT: Duration = Duration::from_millis(300);
