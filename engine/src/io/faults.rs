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
//! count=FILE           at the end (also at a kill, and at an abort after a failed call) write how many calls of each
//!                      kind were made and how often each point was reached: one "name number" per line
//! list                 print the points and end
//! ```
//! K and N count from 1. ERRNO is a name such as EIO, ENOSPC, EDQUOT, EMFILE, EACCES or EINTR. Calls of all threads are
//! counted together, so which call is the K-th varies a little between runs: a sweep over K meets them all.
//!
//! The process ends by a signal that cannot be caught: nothing is unwound, flushed or closed, as in `kill -9`.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hikyaku_spool::faults::{Call, Observer, install};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

/// Every point that can be reached, in the order of a file's way through the engine, and when that is.
pub const POINTS: &[(&str, &str)] = &[
    ("start.drop-opened", "the drop directory is open and locked"),
    ("start.spool-opened", "the spool is locked"),
    ("start.log-recovered", "one shard's log is recovered"),
    ("start.attempts-log-opened", "the log of attempts is open"),
    ("start.restored", "a shard knows what waits in its logs"),
    (
        "start.doubts-logged",
        "possible duplicates stand in the log of attempts",
    ),
    ("start.shard-runs", "one shard's executor runs"),
    (
        "start.leftover-removed",
        "a claimed file of an earlier run, accepted then, is removed",
    ),
    (
        "start.leftover-reclaimed",
        "a claimed file of an earlier run has a new submission",
    ),
    ("start.leftovers-synced", "those renames are durable"),
    ("start.done", "the ingestion thread begins"),
    ("ingest.claimed", "a file is renamed into claimed/"),
    ("ingest.claims-synced", "claims are durable"),
    (
        "ingest.staged",
        "a part of a file is on its way to its shard",
    ),
    ("ingest.read", "a file is read to its end"),
    (
        "shard.staged",
        "messages are appended, not durable and not accepted",
    ),
    (
        "shard.accept-appended",
        "an acceptance is appended and not durable",
    ),
    ("commit.before-write", "a batch is about to be written"),
    ("commit.before-sync", "a batch is written and not synced"),
    ("commit.synced", "a batch is durable and nobody knows"),
    ("commit.told", "the shard knows that a batch is durable"),
    (
        "ingest.accepted",
        "ingest knows that a file's acceptance is durable",
    ),
    (
        "ingest.receipt-made",
        "a receipt is written under its temporary name",
    ),
    ("ingest.receipt-written", "a receipt has its name"),
    (
        "ingest.before-unlink",
        "a claimed file is about to be removed",
    ),
    ("ingest.unlinked", "it is removed, not durably"),
    (
        "ingest.quarantined",
        "a refused file is moved, its reason not written",
    ),
    ("ingest.unclaimed", "a claimed file is put back into new/"),
    ("ingest.removals-synced", "removals are durable"),
    (
        "ingest.closed",
        "a submission with all states final is given away for closing",
    ),
    ("conn.connected", "a connection stands"),
    ("conn.before-write", "bytes are about to be sent"),
    (
        "conn.before-dot",
        "bytes with a final dot are about to be sent",
    ),
    ("conn.after-dot", "they are sent"),
    ("conn.reply-read", "bytes of a peer are read"),
    (
        "shard.before-mark",
        "an attempt is judged, its mark not appended",
    ),
    ("shard.marked", "its mark is appended, not durable"),
    ("drain.begun", "the engine was asked to end"),
    ("drain.shard-drained", "a shard has nothing in flight"),
    ("drain.ended", "all threads have ended"),
];

/// The kinds of calls, in the order of their counters.
const KINDS: [&str; 10] = [
    "open", "create", "allocate", "write", "read", "sync", "syncdir", "rename", "remove", "net",
];

/// A SPEC that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such item.
    #[error(
        "--faults {0}: not understood; items are kill=POINT:N, kill-call=K, fail=[KIND:]K[+]:ERRNO, count=FILE, list"
    )]
    Item(String),
    /// No such point.
    #[error("--faults: there is no point {0}; --faults list prints them")]
    Point(String),
    /// No such kind.
    #[error("--faults: there is no kind of call {0}; kinds are {kinds}", kinds = KINDS.join(", "))]
    Kind(String),
    /// Not a number from 1 upwards.
    #[error("--faults: {0} is no number from 1 upwards")]
    Number(String),
    /// No such error.
    #[error("--faults: the errno {0} is not known by name")]
    Errno(String),
}

/// What shall befall a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    kill_points: Vec<(usize, u64)>,
    kill_call: Option<u64>,
    failures: Vec<Failure>,
    count: Option<PathBuf>,
    /// Print the points and end.
    pub list: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// Index into [`KINDS`]; `None` for any call.
    kind: Option<usize>,
    first: u64,
    last: u64,
    errno: i32,
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        for item in text.split(',') {
            let wrong = || SpecError::Item(item.to_owned());
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            match (name, value) {
                ("list", "") => spec.list = true,
                ("kill", _) => {
                    let (point, number) = value.rsplit_once(':').ok_or_else(wrong)?;
                    let index = POINTS.iter().position(|(name, _)| *name == point);
                    let index = index.ok_or_else(|| SpecError::Point(point.to_owned()))?;
                    spec.kill_points.push((index, from_one(number)?));
                }
                ("kill-call", _) => spec.kill_call = Some(from_one(value)?),
                ("fail", _) => spec.failures.push(failure(value).ok_or_else(wrong)??),
                ("count", file) if !file.is_empty() => spec.count = Some(file.into()),
                _ => return Err(wrong()),
            }
        }
        Ok(spec)
    }
}

impl Spec {
    /// All of several flags.
    ///
    /// # Errors
    /// The first item that is not understood.
    pub fn parse_all(texts: &[String]) -> Result<Self, SpecError> {
        let mut all = Self::default();
        for text in texts {
            let spec: Self = text.parse()?;
            all.kill_points.extend(spec.kill_points);
            all.failures.extend(spec.failures);
            all.kill_call = spec.kill_call.or(all.kill_call);
            all.count = spec.count.or(all.count);
            all.list |= spec.list;
        }
        Ok(all)
    }

    /// Puts it into force for the rest of this process.
    pub fn arm(self) -> Armed {
        let faults = Arc::new(Faults {
            spec: self,
            calls: AtomicU64::new(0),
            by_kind: Default::default(),
            by_point: POINTS.iter().map(|_| AtomicU64::new(0)).collect(),
        });
        install(Arc::clone(&faults) as Arc<dyn Observer + Send + Sync>);
        Armed(faults)
    }
}

fn from_one(text: &str) -> Result<u64, SpecError> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(SpecError::Number(text.to_owned())),
    }
}

/// `[KIND:]K[+]:ERRNO`; `None` when it has another shape.
fn failure(value: &str) -> Option<Result<Failure, SpecError>> {
    let (call, errno) = value.rsplit_once(':')?;
    let (kind, number) = match call.split_once(':') {
        Some((kind, number)) => (Some(kind), number),
        None => (None, call),
    };
    let parsed = || {
        let kind = kind.map(|kind| {
            let index = KINDS.iter().position(|name| *name == kind);
            index.ok_or_else(|| SpecError::Kind(kind.to_owned()))
        });
        let number_only = number.strip_suffix('+');
        let first = from_one(number_only.unwrap_or(number))?;
        let errno_found = ERRNOS.iter().find(|(name, _)| *name == errno);
        let (_, found) = errno_found.ok_or_else(|| SpecError::Errno(errno.to_owned()))?;
        Ok(Failure {
            kind: kind.transpose()?,
            first,
            last: number_only.map_or(first, |_| u64::MAX),
            errno: found.raw_os_error(),
        })
    };
    Some(parsed())
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
        for failure in &self.spec.failures {
            let number = match failure.kind {
                None => of_all,
                Some(only) if only == kind => of_kind,
                Some(_) => continue,
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

impl Faults {
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

/// The points and when each is reached, one per line.
#[must_use]
pub fn list() -> String {
    POINTS
        .iter()
        .map(|(name, when)| format!("{name:28}{when}\n"))
        .collect()
}

/// Errors that the calls of this program can meet.
const ERRNOS: [(&str, Errno); 33] = [
    ("EACCES", Errno::ACCESS),
    ("EADDRINUSE", Errno::ADDRINUSE),
    ("EADDRNOTAVAIL", Errno::ADDRNOTAVAIL),
    ("EAGAIN", Errno::AGAIN),
    ("EBADF", Errno::BADF),
    ("EBUSY", Errno::BUSY),
    ("ECONNREFUSED", Errno::CONNREFUSED),
    ("ECONNRESET", Errno::CONNRESET),
    ("EDQUOT", Errno::DQUOT),
    ("EEXIST", Errno::EXIST),
    ("EFBIG", Errno::FBIG),
    ("EHOSTUNREACH", Errno::HOSTUNREACH),
    ("EINTR", Errno::INTR),
    ("EINVAL", Errno::INVAL),
    ("EIO", Errno::IO),
    ("ELOOP", Errno::LOOP),
    ("EMFILE", Errno::MFILE),
    ("EMLINK", Errno::MLINK),
    ("ENETUNREACH", Errno::NETUNREACH),
    ("ENFILE", Errno::NFILE),
    ("ENOBUFS", Errno::NOBUFS),
    ("ENODEV", Errno::NODEV),
    ("ENOENT", Errno::NOENT),
    ("ENOMEM", Errno::NOMEM),
    ("ENOSPC", Errno::NOSPC),
    ("ENOTDIR", Errno::NOTDIR),
    ("ENXIO", Errno::NXIO),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EPERM", Errno::PERM),
    ("EPIPE", Errno::PIPE),
    ("EROFS", Errno::ROFS),
    ("ESTALE", Errno::STALE),
    ("ETIMEDOUT", Errno::TIMEDOUT),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn observer(spec: &str) -> Faults {
        Faults {
            spec: spec.parse().expect(spec),
            calls: AtomicU64::new(0),
            by_kind: Default::default(),
            by_point: POINTS.iter().map(|_| AtomicU64::new(0)).collect(),
        }
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
    fn what_is_wrong_with_a_spec_is_said() {
        for (spec, expected) in [
            ("", "not understood"),
            ("kill", "not understood"),
            ("kill=ingest.claimed", "not understood"),
            ("kill=nowhere:1", "there is no point nowhere"),
            ("kill=ingest.claimed:0", "0 is no number"),
            ("kill-call=x", "x is no number"),
            ("fail=EIO", "not understood"),
            ("fail=0:EIO", "0 is no number"),
            ("fail=1:EFOO", "errno EFOO"),
            ("fail=fsync:1:EIO", "no kind of call fsync"),
            ("count=", "not understood"),
            ("list=all", "not understood"),
            ("list,,", "not understood"),
        ] {
            let error = spec.parse::<Spec>().expect_err(spec).to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn several_flags_are_one_spec() {
        let flags = [
            "kill=ingest.claimed:2,fail=3:EIO",
            "fail=net:1:EMFILE,count=f",
        ]
        .map(str::to_owned);
        let all = Spec::parse_all(&flags).expect("specs");
        assert_eq!(
            (all.kill_points.len(), all.failures.len(), all.count),
            (1, 2, Some("f".into()))
        );
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

    /// A point that the list does not name cannot be asked for; one that nobody sets is never reached.
    #[test]
    fn the_list_names_the_points_that_are_set() {
        fn collect(dir: &Path, out: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(dir).expect("sources") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    collect(&path, out);
                } else if path.extension().is_some_and(|e| e == "rs")
                    && !path.ends_with("faults.rs")
                {
                    let text = std::fs::read_to_string(&path).expect("source");
                    let compact: String = text.split_whitespace().collect();
                    for rest in compact.split("point(\"").skip(1) {
                        let name = rest.split('"').next().expect("a name");
                        out.insert(name.to_owned());
                    }
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut set = BTreeSet::new();
        collect(&root.join("src"), &mut set);
        collect(&root.join("../spool/src"), &mut set);
        let listed: BTreeSet<String> = POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(set, listed);
    }
}
