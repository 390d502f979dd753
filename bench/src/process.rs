//! A child process, watched: its CPU time, context switches, memory and I/O as the kernel counts them.
//!
//! CPU time and I/O are read from the ended, not yet reaped process, so they are complete (CPU to a
//! clock tick, 10 ms). Context switches and peak memory are not kept by the kernel for an ended
//! process: they are sampled every [`SAMPLE_EVERY`] while it lives and lack what came after the last
//! look. A child that is dropped is killed; no other process ever is.

mod threads;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

pub use threads::Threads;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Between two looks: a few file reads, some 0.1 % of a core.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(25);

/// What a process used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, microseconds.
    pub system_us: u64,
    /// Context switches because it waited; sampled.
    pub switches_voluntary: u64,
    /// Context switches because its time was over; sampled.
    pub switches_involuntary: u64,
    /// Largest resident set, bytes; sampled.
    pub rss_peak: u64,
    /// Largest resident set without files, bytes; sampled.
    pub rss_anonymous_peak: u64,
    /// Bytes that it caused to be read from storage.
    pub read_bytes: u64,
    /// Bytes that it caused to be written to storage.
    pub write_bytes: u64,
}

impl Usage {
    /// User and system time.
    #[must_use]
    pub const fn cpu_us(&self) -> u64 {
        self.user_us + self.system_us
    }
}

/// A child of ours.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    usage: Usage,
    /// All threads, as of the last look at each.
    threads: threads::Seen,
    ended: Option<ExitStatus>,
}

impl Watched {
    /// Takes charge of `child`.
    #[must_use]
    pub fn new(child: Child) -> Self {
        Self {
            child,
            usage: Usage::default(),
            threads: threads::Seen::default(),
            ended: None,
        }
    }

    /// The child, for its pipes.
    pub const fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until the child ends, or until `stop` says so. `Ok(None)`: it still runs, because of
    /// `stop` or because `deadline` passed.
    ///
    /// # Errors
    ///
    /// The child cannot be waited for.
    pub fn wait_until(
        &mut self,
        deadline: Instant,
        mut stop: impl FnMut() -> bool,
    ) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        let pid = Pid::from_child(&self.child);
        loop {
            // NOWAIT leaves the ended process as it is, so that what it used can still be read.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if waitid(WaitId::Pid(pid), options)?.is_some() {
                self.sample_final();
                self.ended = Some(self.child.wait()?);
                return Ok(self.ended);
            }
            self.sample();
            if stop() || Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(SAMPLE_EVERY);
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        if self.ended.is_none() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM); // It may have just ended.
        }
    }

    /// What it used, as far as is known by now.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).ok()
    }

    fn sample(&mut self) {
        if let Some(status) = self.read("status") {
            let kib: u64 = value(&status, "VmHWM:").unwrap_or(0);
            self.usage.rss_peak = self.usage.rss_peak.max(kib << 10);
            let kib: u64 = value(&status, "RssAnon:").unwrap_or(0);
            self.usage.rss_anonymous_peak = self.usage.rss_anonymous_peak.max(kib << 10);
        }
        self.threads.look(self.child.id());
        (
            self.usage.switches_voluntary,
            self.usage.switches_involuntary,
        ) = self.threads.switches();
    }

    /// What its threads used, by name, as of the last look at each.
    #[must_use]
    pub fn threads(&self) -> BTreeMap<String, Threads> {
        self.threads.by_name()
    }

    /// Reads what the running child used so far: [`Self::usage`] has it then.
    pub fn look(&mut self) {
        self.sample();
        self.sample_final();
    }

    fn sample_final(&mut self) {
        if let Some((user, system)) = self.read("stat").as_deref().and_then(cpu_ticks) {
            let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
            self.usage.user_us = user * tick_us;
            self.usage.system_us = system * tick_us;
        }
        if let Some(io) = self.read("io") {
            self.usage.read_bytes = value(&io, "read_bytes:").unwrap_or(0);
            self.usage.write_bytes = value(&io, "write_bytes:").unwrap_or(0);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill(); // It may have just ended.
            let _ = self.child.wait();
        }
    }
}

/// The number behind `name` in the line that begins with it.
pub(crate) fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    })
}

/// utime and stime of `/proc/PID/stat`. The name in it may hold anything, so count from its end.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn an_ended_child_tells_what_it_used() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exit 3";
        let child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut watched = Watched::new(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = watched.wait_until(deadline, || false).unwrap().unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(watched.usage().cpu_us() >= 10_000, "{:?}", watched.usage());
    }

    #[test]
    fn deadlines_and_signals_end_the_wait() {
        let mut watched = Watched::new(Command::new("sleep").arg("60").spawn().unwrap());
        assert!(
            watched
                .wait_until(Instant::now(), || false)
                .unwrap()
                .is_none()
        );
        assert!(watched.usage().rss_peak > 0);
        watched.terminate();
        let status = watched
            .wait_until(Instant::now() + Duration::from_secs(60), || false)
            .unwrap();
        assert!(!status.unwrap().success());
        drop(Watched::new(
            Command::new("sleep").arg("60").spawn().unwrap(),
        ));
    }

    #[test]
    fn stat_is_read_behind_any_name() {
        let stat = "7 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 111 222 0 0";
        assert_eq!(cpu_ticks(stat), Some((111, 222)));
        assert_eq!(cpu_ticks("nonsense"), None);
    }
}
