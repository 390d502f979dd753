//! The whole ingestion core on a real directory, with a spool that is a map: killed before each of its
//! calls in turn, started again, and held against "each file once, each key once".

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

use crossbeam::queue::SegQueue;
use hikyaku_spool::faults::{self, Call, Observer};
use serde_json::Value;

use super::*;
use crate::handoff::{Command, Doorbell, Receipt, Ring, Tally};
use crate::io::dropdir::DropLimits;
use crate::io::jobfile::Said;
use crate::shard::Gauge;

/// What outlives the process.
#[derive(Default)]
struct Spool {
    /// Accepted and not closed.
    open: HashMap<SubmissionId, Arc<Acceptance>>,
    /// Everything ever accepted: file, and what it was accepted as.
    imports: Vec<(String, SubmissionId)>,
    /// Jobs with recipients.
    jobs: Vec<&'static str>,
}

impl Spool {
    /// Carries out what ingest has given, and answers as a shard does. True when there was anything.
    fn serve(&mut self, ring: &Ring<Command>, receipts: &Receipts) -> bool {
        let mut any = false;
        while let Some(command) = ring.pop() {
            any = true;
            match command {
                Command::Stage {
                    submission, accept, ..
                } => {
                    if let Some(acceptance) = accept {
                        self.accept(submission, acceptance, receipts);
                    } else {
                        let log = 0;
                        receipts.queue.push(Receipt::Durable { submission, log });
                    }
                }
                Command::Accept {
                    submission,
                    acceptance,
                } => self.accept(submission, acceptance, receipts),
                Command::Discard { .. } => {}
                Command::Job { control, job, .. } => {
                    let known = self.jobs.iter().any(|known| **known == *job);
                    let recipients = if known { 3 } else { 0 };
                    receipts.queue.push(Receipt::Control {
                        control,
                        known,
                        recipients,
                        cancelled: recipients,
                    });
                }
                Command::Close { submission } => {
                    self.open.remove(&submission);
                }
            }
        }
        any
    }

    fn accept(&mut self, submission: SubmissionId, acceptance: Arc<Acceptance>, to: &Receipts) {
        self.imports.push((acceptance.file.clone(), submission));
        let tally = Tally {
            delivered: acceptance.recipients,
            ..Tally::default()
        };
        self.open.insert(submission, acceptance);
        to.queue.push(Receipt::Durable { submission, log: 0 });
        to.queue.push(Receipt::Final {
            submission,
            log: 0,
            tally,
        });
    }
}

/// Ends the "process" before its `at`-th call: no destructor of ours touches the disk.
struct KillAt {
    at: u64,
    calls: Cell<u64>,
}

impl Observer for KillAt {
    fn before(&self, _: &Call<'_>) -> io::Result<()> {
        self.calls.set(self.calls.get() + 1);
        assert!(self.calls.get() != self.at, "killed");
        Ok(())
    }
}

/// Fails every call whose path has this in it.
struct Fails(&'static str);

impl Observer for Fails {
    fn before(&self, call: &Call<'_>) -> io::Result<()> {
        match call {
            Call::Create(path) if path.to_string_lossy().contains(self.0) => {
                Err(io::Error::from_raw_os_error(28))
            }
            _ => Ok(()),
        }
    }
}

struct Process {
    ingest: Ingest,
    ring: Arc<Ring<Command>>,
    receipts: Arc<Receipts>,
    /// Nothing is taken in.
    shut: bool,
}

impl Process {
    fn start(at: &Path, spool: &Spool) -> Self {
        let dir = DropDir::open(&at.join("drop"), DropLimits::default()).unwrap();
        let watch = dir.watch().unwrap();
        let receipts = Arc::new(Receipts {
            queue: SegQueue::new(),
            bell: Doorbell::new(|| {}),
        });
        let ring = Arc::new(Ring::new(64, Doorbell::new(|| {})));
        let mut recovered = spool.open.clone();
        let ingest = Ingest::new(
            Parts {
                dir,
                watch,
                limits: Limits::default(),
                outlets: vec![Outlet {
                    log: 0,
                    ring: Arc::clone(&ring),
                }],
                receipts: Arc::clone(&receipts),
                state: Arc::default(),
                keys: KeyFile::open(&at.join("spool"), clock::wall()).unwrap(),
                jobs: JobFile::open(&at.join("spool")).unwrap(),
                spool: at.join("spool"),
                secret: Secret::new(&[7; 32]),
                suppressed: None,
            },
            &recovered,
        );
        // Everything in the spool was delivered before the kill; a shard says so after its recovery.
        for (submission, acceptance) in recovered.drain() {
            let tally = Tally {
                delivered: acceptance.recipients,
                ..Tally::default()
            };
            receipts.queue.push(Receipt::Final {
                submission,
                log: 0,
                tally,
            });
        }
        Self {
            ingest: ingest.unwrap(),
            ring,
            receipts,
            shut: false,
        }
    }

    /// The spool has no room from now on.
    fn shut(mut self) -> Self {
        let gauge = Arc::new(Gauge::default());
        gauge.room.store(1, Relaxed);
        let memory = crate::budget::Memory::divide(1 << 30, 1, 1);
        let admission = Admission::new(&memory, 10, vec![gauge], Arc::default());
        self.ingest = self.ingest.admitted_by(admission);
        self.shut = true;
        self
    }

    /// Until nothing moves any more.
    fn work(&mut self, spool: &mut Spool) {
        let ingest = &mut self.ingest;
        ingest.rescan = true;
        for _ in 0..20_000 {
            let mut moved = spool.serve(&self.ring, &self.receipts);
            moved |= ingest.take_receipts() == Progress::Made;
            moved |= ingest.read_on() == Progress::Made || ingest.hear() == Progress::Made;
            ingest.tell_accepted(!moved);
            ingest.closed_at = Instant::default();
            moved |= !ingest.closing.is_empty() || !ingest.flushing.is_empty();
            ingest.close_finished(true);
            if !ingest.flushing.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !moved && (!ingest.rescan || self.shut) && self.ring.is_empty() {
                return;
            }
        }
        panic!("it does not come to rest");
    }
}

fn put(at: &Path, name: &str, key: &str, text: &str) {
    let key = if key.is_empty() {
        String::new()
    } else {
        format!("x-idempotency-key: {key}\n")
    };
    let file = format!("{key}x-sender: a@b.test\nx-receiver: c@d.test\nFrom: x\n\n{text}\n");
    fs::write(at.join("drop/new").join(name), file).unwrap();
}

fn receipt(at: &Path, name: &str) -> Value {
    let path = at.join("drop/receipts").join(format!("{name}.json"));
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|_| panic!("no receipt of {name}")))
        .unwrap()
}

fn world() -> tempfile::TempDir {
    // Hundreds of worlds with some syncs each: in memory where that can be had.
    let tmp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let tmp = tmp.unwrap();
    for part in ["drop", "drop/new", "spool"] {
        fs::create_dir(tmp.path().join(part)).unwrap();
    }
    tmp
}

/// Every call once; answers whether the last run was killed at all.
fn killed_at(at: u64) -> bool {
    let tmp = world();
    let path = tmp.path();
    put(path, "a.eml", "k", "one");
    put(path, "b.eml", "k", "one");
    put(path, "c.eml", "k", "another");
    put(path, "d.eml", "", "one");
    let mut spool = Spool::default();
    let observer = Rc::new(KillAt {
        at,
        calls: Cell::new(0),
    });
    faults::install_here(Some(observer.clone()));
    let mut rounds = 0;
    // The second time everything comes anew under other names: keys are known from the file alone.
    for round in 0..2 {
        if round == 1 {
            put(path, "e.eml", "k", "one");
            put(path, "f.eml", "k", "a third");
        }
        loop {
            rounds += 1;
            assert!(rounds < 5, "killed once, started again once");
            let run = catch_unwind(AssertUnwindSafe(|| {
                Process::start(path, &spool).work(&mut spool);
            }));
            if run.is_ok() {
                break;
            }
        }
        assert!(spool.open.is_empty(), "kill {at}: everything is closed");
    }
    faults::install_here(None);
    let files: Vec<&str> = spool.imports.iter().map(|(file, _)| &**file).collect();
    assert_eq!(
        files.iter().filter(|file| **file == "d.eml").count(),
        1,
        "kill {at}: {files:?}"
    );
    assert_eq!(files.len(), 2, "kill {at}: one file of the key: {files:?}");
    let (taken, submission) = spool
        .imports
        .iter()
        .find(|(file, _)| file != "d.eml")
        .unwrap();
    assert_eq!(taken, "a.eml");
    for name in ["b.eml", "e.eml"] {
        let receipt = receipt(path, name);
        assert_eq!(receipt["state"], "repeated", "kill {at}: {receipt}");
        assert_eq!(receipt["submission"], submission.to_string());
    }
    for name in ["c.eml", "f.eml"] {
        let receipt = receipt(path, name);
        assert_eq!(receipt["reason"]["code"], "key", "kill {at}: {receipt}");
    }
    for name in ["a.eml", "d.eml"] {
        let receipt = receipt(path, name);
        assert_eq!(
            (&receipt["state"], &receipt["delivered"]),
            (&"final".into(), &1.into())
        );
    }
    for part in ["new", "claimed"] {
        assert_eq!(
            fs::read_dir(path.join("drop").join(part)).unwrap().count(),
            0
        );
    }
    // Two files and two reasons, whatever happened around the moves.
    assert_eq!(
        fs::read_dir(path.join("drop/quarantine")).unwrap().count(),
        4,
        "kill {at}"
    );
    observer.calls.get() >= at
}

#[test]
fn killed_before_any_of_its_calls_it_takes_each_file_and_each_key_once() {
    // The kills are panics here; their messages would hide others.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .unwrap_or_default();
        if !text.contains("killed") {
            hook(info);
        }
    }));
    let mut at = 1;
    while killed_at(at) {
        at += 1;
    }
    assert!(at > 50, "only {at} calls: does anything announce them?");
}

#[test]
fn receipts_that_cannot_be_written_follow_and_hold_nothing_up() {
    let tmp = world();
    let path = tmp.path();
    put(path, "a.eml", "", "one");
    put(path, "b.eml", "", "two");
    let mut spool = Spool::default();
    let mut process = Process::start(path, &spool);
    faults::install_here(Some(Rc::new(Fails(".eml.json"))));
    process.work(&mut spool);
    faults::install_here(None);
    assert_eq!(spool.imports.len(), 2);
    assert_eq!(process.ingest.state.receipts_failed.load(Relaxed), 2);
    assert_eq!(
        (process.ingest.owed_finals(), spool.open.len()),
        (2, 2),
        "kept for a restart"
    );
    process.ingest.tell_owed();
    process.work(&mut spool);
    assert!(spool.open.is_empty());
    for name in ["a.eml", "b.eml"] {
        assert_eq!(receipt(path, name)["state"], "final");
    }
}

#[test]
fn a_directory_that_is_replaced_stops_claims_only() {
    let tmp = world();
    let path = tmp.path();
    let mut spool = Spool::default();
    let mut process = Process::start(path, &spool);
    fs::rename(path.join("drop"), path.join("old")).unwrap();
    process.ingest.look_at_directory();
    assert!(process.ingest.absent && process.ingest.read_on() == Progress::None);
    for part in ["drop", "drop/new"] {
        fs::create_dir(path.join(part)).unwrap();
    }
    put(path, "a.eml", "", "one");
    process.ingest.look_at_directory();
    assert!(!process.ingest.absent);
    process.work(&mut spool);
    assert_eq!(spool.imports.len(), 1);
}

#[test]
fn what_stays_in_claimed_is_found_without_a_restart() {
    let tmp = world();
    let path = tmp.path();
    let mut spool = Spool::default();
    let mut process = Process::start(path, &spool);
    put(path, "a.eml", "", "one");
    fs::rename(
        path.join("drop/new/a.eml"),
        path.join("drop/claimed")
            .join(format!("{}-a.eml", SubmissionId(7))),
    )
    .unwrap();
    process.ingest.stray = true;
    process.ingest.looked_after_at = Instant::default();
    process.ingest.look_after();
    process.work(&mut spool);
    assert_eq!(spool.imports.len(), 1);
    assert_ne!(
        spool.imports[0].1,
        SubmissionId(7),
        "under a submission of its own"
    );
}

fn said(at: &Path) -> Said {
    JobFile::open(&at.join("spool")).unwrap().said().clone()
}

#[test]
fn control_files_are_carried_out_or_refused() {
    let tmp = world();
    let at = tmp.path();
    let mut spool = Spool {
        jobs: vec!["spring"],
        ..Spool::default()
    };
    let mut process = Process::start(at, &spool);
    let new = |name: &str, text: &str| fs::write(at.join("drop/new").join(name), text).unwrap();
    new("spring.pause", "");
    new("nobody.pause", "");
    new("nobody.cancel", "");
    new("odd.pause", "two\nlines\n");
    new("long.resume", &"x".repeat(10_000));
    process.work(&mut spool);
    let state = |name: &str| {
        let receipt = receipt(at, name);
        let code = receipt["reason"]["code"].as_str().map(str::to_owned);
        (receipt["state"].as_str().unwrap().to_owned(), code)
    };
    let refused = ("refused".to_owned(), Some("control".to_owned()));
    for name in ["nobody.pause", "nobody.cancel", "odd.pause", "long.resume"] {
        assert_eq!(state(name), refused, "{name}");
    }
    assert_eq!(state("spring.pause"), ("final".to_owned(), None));
    assert_eq!(receipt(at, "spring.pause")["recipients"], 3);
    assert_eq!(said(at).paused.into_iter().collect::<Vec<_>>(), ["spring"]);

    new("spring.cancel", "wrong price\n");
    process.work(&mut spool);
    assert_eq!(receipt(at, "spring.cancel")["cancelled"], 3);
    assert_eq!(said(at), Said::default());
    for part in ["new", "claimed"] {
        let left = fs::read_dir(at.join("drop").join(part)).unwrap().count();
        assert_eq!(left, 0, "{part}");
    }
}

#[test]
fn control_files_are_heard_while_nothing_else_is_taken() {
    let tmp = world();
    let at = tmp.path();
    let mut spool = Spool {
        jobs: vec!["spring", "autumn"],
        ..Spool::default()
    };
    // More than one slice of the directory, and more than are claimed together.
    for number in 0..3000 {
        put(at, &format!("{number}.eml"), "", "x");
    }
    let new = |name: &str, text: &str| fs::write(at.join("drop/new").join(name), text).unwrap();
    new("spring.cancel", "the disk is full\n");
    let mut process = Process::start(at, &spool).shut();
    process.work(&mut spool);
    assert_eq!(receipt(at, "spring.cancel")["cancelled"], 3);
    // One that comes later is told by name, before the next look.
    new("autumn.pause", "");
    until_told(&mut process);
    process.work(&mut spool);
    assert_eq!(receipt(at, "autumn.pause")["state"], "final");
    assert!(spool.imports.is_empty());
    assert_eq!(fs::read_dir(at.join("drop/new")).unwrap().count(), 3000);
    assert_eq!(fs::read_dir(at.join("drop/claimed")).unwrap().count(), 0);
    // Those that wait keep their place and are taken when there is room.
    process.ingest.admission = None;
    process.shut = false;
    process.work(&mut spool);
    assert_eq!(spool.imports.len(), 3000);
}

fn until_told(process: &mut Process) {
    for _ in 0..1000 {
        let woken = process.ingest.watch.wait(Duration::from_millis(10));
        if woken.unwrap().named {
            return;
        }
    }
    panic!("no name");
}

#[test]
fn a_control_file_that_was_claimed_before_the_door_was_shut_is_heard() {
    let tmp = world();
    let at = tmp.path();
    let mut spool = Spool {
        jobs: vec!["spring"],
        ..Spool::default()
    };
    put(at, "a.eml", "", "x");
    fs::write(at.join("drop/new/spring.cancel"), "").unwrap();
    let mut process = Process::start(at, &spool);
    assert!(process.ingest.claim_some() == Progress::Made);
    assert_eq!(process.ingest.claimed.len(), 2);
    let mut process = process.shut();
    process.work(&mut spool);
    assert_eq!(receipt(at, "spring.cancel")["state"], "final");
    assert!(spool.imports.is_empty());
}

#[test]
fn a_control_file_whose_process_was_killed_is_carried_out_by_the_next() {
    for kill in 1.. {
        let tmp = world();
        let at = tmp.path();
        let mut spool = Spool {
            jobs: vec!["spring"],
            ..Spool::default()
        };
        fs::write(at.join("drop/new/spring.cancel"), "").unwrap();
        let observer = Rc::new(KillAt {
            at: kill,
            calls: Cell::new(0),
        });
        faults::install_here(Some(observer));
        let run = catch_unwind(AssertUnwindSafe(|| {
            Process::start(at, &spool).work(&mut spool);
        }));
        faults::install_here(None);
        // The next process has it done, whatever the first came to.
        Process::start(at, &spool).work(&mut spool);
        assert_eq!(
            receipt(at, "spring.cancel")["state"],
            "final",
            "killed before call {kill}"
        );
        assert_eq!(said(at), Said::default(), "killed before call {kill}");
        let left = fs::read_dir(at.join("drop/claimed")).unwrap().count();
        assert_eq!(left, 0, "killed before call {kill}");
        if run.is_ok() {
            assert!(kill > 5, "only {kill} calls");
            return;
        }
    }
}
