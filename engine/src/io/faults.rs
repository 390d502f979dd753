//! Faults on demand: `hikyaku run --faults SPEC`, for harnesses.
//!
//! The seam ([`hikyaku_spool::faults`]) says where the program stands; this decides what befalls it there. The flag may
//! be given several times, and one SPEC may hold several items with commas between them:
//!
//! ```text
//! kill=POINT:N         end the process (SIGKILL) when this point is reached for the N-th time
//! kill-call=K          end it before the K-th call of any kind
//! fail=K:ERRNO         the K-th call of any kind is not made and fails with ERRNO
//! fail=KIND:K:ERRNO    the K-th call of this kind fails; KIND is one of open, create, allocate, write, sync,
//!                      syncdir, rename, remove, read, net
//! fail=…K+:ERRNO       the K-th and all that follow
//! fail=KIND@TEXT:K:…   only calls whose path (or name, on a socket) contains TEXT are counted: sync@seg-, net@connect
//! count=FILE           at the end (also at a kill, and at an abort after a failed call) write how many calls of each
//!                      kind were made and how often each point was reached: one "name number" per line
//! list                 print the points and end
//! ```
//! K and N count from 1. ERRNO is a name such as EIO, ENOSPC, EDQUOT, EMFILE, EACCES or EINTR. Calls of all threads are
//! counted together, so which call is the K-th varies a little between runs: a sweep over K meets them all.
//!
//! The process ends by a signal that cannot be caught: nothing is unwound, flushed or closed, as in `kill -9`.

mod points;
mod spec;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hikyaku_spool::faults::{Call, Observer, install};
use rustix::process::{Signal, getpid, kill_process};

use spec::KINDS;

pub use points::{POINTS, list};
pub use spec::{Spec, SpecError};

impl Spec {
    /// Puts it into force for the rest of this process.
    pub fn arm(self) -> Armed {
        let faults = Arc::new(Faults::new(self));
        install(Arc::clone(&faults) as Arc<dyn Observer + Send + Sync>);
        Armed(faults)
    }
}

/// Faults in force.
#[derive(Debug)]
#[must_use]
pub struct Armed(Arc<Faults>);

impl Armed {
    /// Writes the file of `count=`, if one was asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_counts(&self) -> io::Result<()> {
        self.0.write_counts()
    }
}

#[derive(Debug)]
struct Faults {
    spec: Spec,
    calls: AtomicU64,
    by_kind: [AtomicU64; KINDS.len()],
    by_point: Vec<AtomicU64>,
    /// Calls that a failure with a text was asked about.
    by_failure: Vec<AtomicU64>,
}

impl Observer for Faults {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        let kind = match call {
            Call::Point(name) => {
                self.at(name);
                return Ok(());
            }
            Call::Open(_) => 0,
            Call::Create(_) => 1,
            Call::Allocate(..) => 2,
            Call::Write { .. } => 3,
            Call::Read(_) => 4,
            Call::Sync(_) => 5,
            Call::SyncDir(_) => 6,
            Call::Rename(..) => 7,
            Call::Remove(_) => 8,
            Call::Net(_) => 9,
        };
        let of_all = self.calls.fetch_add(1, Relaxed) + 1;
        let of_kind = self.by_kind[kind].fetch_add(1, Relaxed) + 1;
        if self.spec.kill_call == Some(of_all) {
            self.kill();
        }
        for (failure, counter) in self.spec.failures.iter().zip(&self.by_failure) {
            let number = match (failure.kind, &failure.text) {
                (None, _) => of_all,
                (Some(only), None) if only == kind => of_kind,
                (Some(only), Some(text)) if only == kind && names(call, text) => {
                    counter.fetch_add(1, Relaxed) + 1
                }
                _ => continue,
            };
            if (failure.first..=failure.last).contains(&number) {
                if failure.first == number {
                    // A call that ends the process leaves no later moment to say it.
                    let _ = self.write_counts();
                }
                return Err(io::Error::from_raw_os_error(failure.errno));
            }
        }
        Ok(())
    }
}

/// Whether `text` stands in what the call is about.
fn names(call: &Call<'_>, text: &str) -> bool {
    let has = |path: &Path| path.to_string_lossy().contains(text);
    match call {
        Call::Open(path)
        | Call::Create(path)
        | Call::Allocate(path, _)
        | Call::Write { path, .. }
        | Call::Read(path)
        | Call::Sync(path)
        | Call::SyncDir(path)
        | Call::Remove(path) => has(path),
        Call::Rename(from, to) => has(from) || has(to),
        Call::Net(name) | Call::Point(name) => name.contains(text),
    }
}

impl Faults {
    fn new(spec: Spec) -> Self {
        let counters = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            calls: AtomicU64::new(0),
            by_kind: Default::default(),
            by_point: counters(POINTS.len()),
            by_failure: counters(spec.failures.len()),
            spec,
        }
    }

    fn at(&self, name: &str) {
        let Some(index) = POINTS.iter().position(|(point, _)| *point == name) else {
            return;
        };
        let reached = self.by_point[index].fetch_add(1, Relaxed) + 1;
        if self.spec.kill_points.contains(&(index, reached)) {
            self.kill();
        }
    }

    fn kill(&self) -> ! {
        let _ = self.write_counts();
        let _ = kill_process(getpid(), Signal::KILL);
        // Not reached, unless a sandbox forbids signals: an abort unwinds nothing either.
        std::process::abort()
    }

    fn write_counts(&self) -> io::Result<()> {
        let Some(path) = &self.spec.count else {
            return Ok(());
        };
        let mut text = format!("calls {}\n", self.calls.load(Relaxed));
        let points = POINTS.iter().map(|(name, _)| *name);
        let names = KINDS.into_iter().chain(points);
        for (name, counter) in names.zip(self.by_kind.iter().chain(&self.by_point)) {
            text.push_str(&format!("{name} {}\n", counter.load(Relaxed)));
        }
        write_whole(path, &text)
    }
}

/// In one step, so that nobody reads half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let made = path.with_extension("tmp");
    std::fs::write(&made, text)?;
    std::fs::rename(made, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observer(spec: &str) -> Faults {
        Faults::new(spec.parse().expect(spec))
    }

    #[test]
    fn calls_fail_as_told_and_no_others() {
        let path = Path::new("x");
        let calls = [
            Call::Open(path),
            Call::Sync(path),
            Call::Open(path),
            Call::Sync(path),
            Call::Net("connect"),
            Call::Sync(path),
        ];
        for (spec, expected) in [
            ("fail=2:EIO", "-5----"),
            ("fail=sync:2:ENOSPC", "---28--"),
            ("fail=sync:2+:EIO", "---5-5"),
            ("fail=5+:EINTR,fail=open:1:EMFILE", "24---44"),
            ("fail=net:1:ECONNREFUSED", "----111-"),
            ("fail=sync@y:1:EIO", "------"),
            ("fail=sync@x:3:EIO,fail=net@conn:1:EPIPE", "----325"),
            ("count=/nowhere/at/all", "------"),
        ] {
            let faults = observer(spec);
            let said: String = calls
                .iter()
                .map(|call| match faults.before(call) {
                    Ok(()) => "-".to_owned(),
                    Err(error) => error.raw_os_error().unwrap_or(0).to_string(),
                })
                .collect();
            assert_eq!(said, expected, "{spec}");
        }
    }

    #[test]
    fn counts_are_written_by_name() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("counts");
        let faults = observer(&format!("count={}", file.display()));
        for _ in 0..3 {
            faults
                .before(&Call::Rename(Path::new("a"), Path::new("b")))
                .expect("no fault");
            faults
                .before(&Call::Point("ingest.claimed"))
                .expect("a point");
        }
        faults.write_counts().expect("written");
        let text = std::fs::read_to_string(file).expect("read");
        for line in [
            "calls 3\n",
            "\nrename 3\n",
            "\nnet 0\n",
            "\ningest.claimed 3\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
    }
}
