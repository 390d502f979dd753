//! The recovery report: what a start found after an unclean end, and who may get a second copy.
//!
//! `recovery-<time>.json` for machines and `.txt` for people, beside the log, written and flushed
//! before the first delivery; the last 20 of each are kept. Recipients are written one by one, so a
//! report of millions needs no memory. Where the log's directory is full, the report goes into the
//! spool's; where that fails too, the start goes on and says so: the attempts log labels each
//! possible duplicate as well.

mod logs;
mod recipients;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hikyaku_spool::faults::{Call, before};
use hikyaku_spool::{LastStop, Log, Recovered};

use crate::handoff::Acceptance;
use crate::mail::id::SubmissionId;
use crate::shard::DoubtPolicy;
use crate::time::WallTime;

use logs::head;
use recipients::{Totals, recipients};

/// Reports of each kind that are kept.
const KEPT: usize = 20;

/// What there is to report.
pub(crate) struct Found<'a> {
    pub(crate) time: WallTime,
    pub(crate) last_stop: &'a LastStop,
    pub(crate) logs: &'a [(Log, Recovered)],
    pub(crate) accepted: &'a HashMap<SubmissionId, Arc<Acceptance>>,
    pub(crate) policy: DoubtPolicy,
}

/// Writes the report into the first of `dirs` that takes it; says where the text for people is.
pub(crate) fn write(found: &Found<'_>, dirs: &[&Path]) -> Option<PathBuf> {
    for dir in dirs {
        match write_into(found, dir) {
            Ok(path) => {
                if let Err(error) = prune(dir) {
                    tracing::warn!(dir = %dir.display(), %error, "old recovery reports are not removed");
                }
                return Some(path);
            }
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "the recovery report cannot be written here");
            }
        }
    }
    None
}

fn write_into(found: &Found<'_>, dir: &Path) -> io::Result<PathBuf> {
    let stem = format!("recovery-{}", file_time(found.time));
    let mut json = Output::create(dir.join(format!("{stem}.json")))?;
    let mut text = Output::create(dir.join(format!("{stem}.txt")))?;
    head(found, &mut json, &mut text)?;
    let totals = recipients(found, &mut json, &mut text)?;
    tail(&totals, &mut json, &mut text)?;
    json.finish()?;
    let path = text.finish()?;
    before(Call::SyncDir(dir))?;
    File::open(dir)?.sync_all()?;
    Ok(path)
}

/// A file that is being written.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Output {
    fn create(path: PathBuf) -> io::Result<Self> {
        before(Call::Create(&path))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            path,
            file: BufWriter::with_capacity(64 << 10, file),
        })
    }

    fn finish(mut self) -> io::Result<PathBuf> {
        self.file.flush()?;
        before(Call::Sync(&self.path))?;
        self.file.get_ref().sync_all()?;
        Ok(self.path)
    }
}

fn tail(totals: &Totals, json: &mut Output, text: &mut Output) -> io::Result<()> {
    let Totals {
        possible_duplicates,
        held,
        retried,
        delivered,
        not_named,
    } = totals;
    json.file.write_all(b"\n],\"totals\":")?;
    serde_json::to_writer(&mut json.file, totals)?;
    json.file.write_all(b"}\n")?;
    writeln!(
        text.file,
        "\n{possible_duplicates} may have been served; {retried} are tried again, {held} are held, {delivered} were delivered."
    )?;
    if *not_named > 0 {
        writeln!(
            text.file,
            "{not_named} more are not named here: `hikyaku spool ls` lists everybody who waits."
        )?;
    }
    Ok(())
}

/// Removes all but the newest reports. Their names sort by time.
fn prune(dir: &Path) -> io::Result<()> {
    for suffix in [".json", ".txt"] {
        let mut names: Vec<String> = fs::read_dir(dir)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("recovery-") && name.ends_with(suffix))
            .collect();
        names.sort_unstable();
        let surplus = names.len().saturating_sub(KEPT);
        for name in &names[..surplus] {
            let path = dir.join(name);
            before(Call::Remove(&path))?;
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// `2026-11-21T23:05:12.042Z`.
fn stamp(time: WallTime) -> String {
    let millis = i64::try_from(time.unix_millis()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

/// The same for a file name, of a fixed length, so that names sort by time.
fn file_time(time: WallTime) -> String {
    stamp(time).replace([':', '-'], "")
}

#[cfg(test)]
mod tests {
    use hikyaku_spool::{Mark, Options, Spool, Verdict};
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::mail::envelope::{self, Envelope, OnDoubt};

    fn options() -> Options {
        Options {
            segment_bytes: 1 << 20,
            message_bytes_max: 64 << 10,
            indoubt_slots: 8,
            allow_any_filesystem: true,
            ..Options::default()
        }
    }

    fn pump(log: &mut Log) {
        while let Some(batch) = log.take_batch(1_000) {
            let file = OpenOptions::new().write(true).open(&*batch.path);
            let file = file.expect("open");
            file.write_all_at(&batch.bytes, batch.offset)
                .expect("write");
            log.committed(batch);
        }
    }

    fn stored(recipients: &[&str], on_doubt: Option<OnDoubt>) -> Vec<u8> {
        let envelope = Envelope {
            recipients: recipients.iter().map(|one| (*one).into()).collect(),
            job: Some("spring".into()),
            on_doubt,
            ..Envelope::default()
        };
        let mut bytes = Vec::new();
        envelope::encode(&envelope, WallTime::from_unix_millis(5), &mut bytes);
        bytes
    }

    #[test]
    fn everybody_who_may_get_a_second_copy_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().join("spool");
        let spool = Spool::open(&place, &options()).expect("spool");
        let (mut log, _) = spool.open_log(0, 1_000).expect("log");
        let several = stored(&["a@x.test", "b@x.test", "c@x.test", "d@x.test"], None);
        let held = stored(&["e@x.test"], Some(OnDoubt::Hold));
        let at = log
            .append_message(7, 4, &several, &[b"content"])
            .expect("room");
        let never = log
            .append_message(7, 1, &held, &[b"content"])
            .expect("room");
        log.append_accept(7, b"").expect("room");
        pump(&mut log);
        log.append_mark(Mark {
            message: at,
            recipient: 3,
            attempts: 1,
            verdict: Verdict::Deferred { due_wall_ms: 9 },
            code: 451,
        });
        pump(&mut log);
        log.in_doubt().claim(at, 0, 1).expect("free");
        let slot = log.in_doubt().claim(at, 1, 1).expect("free");
        log.in_doubt().set_accepted(slot, 250);
        log.in_doubt().claim_active(at, 2, 1).expect("free");
        log.in_doubt().claim(never, 0, 1).expect("free");
        drop((log, spool));

        let spool = Spool::open(&place, &options()).expect("spool");
        assert!(matches!(spool.last_stop(), LastStop::Unclean { .. }));
        let logs = [spool.open_log(0, 500).expect("log")];
        let found = Found {
            time: WallTime::from_unix_millis(1_795_302_312_042),
            last_stop: spool.last_stop(),
            logs: &logs,
            accepted: &HashMap::new(),
            policy: DoubtPolicy {
                on_doubt: OnDoubt::Retry,
                crashes_max: 2,
            },
        };
        // The first place has no room.
        let nowhere = dir.path().join("missing");
        let path = write(&found, &[&nowhere, dir.path()]).expect("written");
        assert_eq!(
            path.file_name().expect("name"),
            "recovery-20261121T230512.042Z.txt"
        );
        let json = fs::read(path.with_extension("json")).expect("read");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json["logs"][0]["clock_behind_ms"], 500);
        assert_eq!(json["previous"]["pid"], std::process::id());
        let told: Vec<_> = json["recipients"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| {
                let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                (
                    text("recipient"),
                    text("state"),
                    text("action"),
                    one["possible_duplicate"] == true,
                )
            })
            .collect();
        let expected = [
            ("a@x.test", "sent", "retried", true),
            ("b@x.test", "accepted", "delivered", false),
            ("c@x.test", "active", "retried", false),
            ("e@x.test", "sent", "held", true),
        ];
        let expected = expected.map(|(who, state, action, may)| {
            (who.to_owned(), state.to_owned(), action.to_owned(), may)
        });
        assert_eq!(told, expected);
        assert_eq!(json["totals"]["possible_duplicates"], 2);
        assert_eq!(json["recipients"][0]["job"], "spring");
        let text = fs::read_to_string(path).expect("read");
        assert!(text.contains("a@x.test"), "{text}");
        assert!(
            text.contains("attempt 1: tried again: MAY GET A SECOND COPY"),
            "{text}"
        );
        assert!(text.contains("held: in doubt"), "{text}");
    }

    #[test]
    fn a_lost_map_names_everybody_who_waits() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().join("spool");
        let spool = Spool::open(&place, &options()).expect("spool");
        let (mut log, _) = spool.open_log(0, 1_000).expect("log");
        let several = stored(&["a@x.test", "b@x.test"], None);
        log.append_message(7, 2, &several, &[b"content"])
            .expect("room");
        log.append_accept(7, b"").expect("room");
        pump(&mut log);
        drop((log, spool));
        fs::write(place.join("shard-0000/indoubt.map"), b"rot").expect("write");
        let spool = Spool::open(&place, &options()).expect("spool");
        let logs = [spool.open_log(0, 2_000).expect("log")];
        let found = Found {
            time: WallTime::from_unix_millis(1),
            last_stop: spool.last_stop(),
            logs: &logs,
            accepted: &HashMap::new(),
            policy: DoubtPolicy {
                on_doubt: OnDoubt::Hold,
                crashes_max: 2,
            },
        };
        let path = write(&found, &[dir.path()]).expect("written");
        let text = fs::read_to_string(path).expect("read");
        assert!(
            text.contains("the map of recipients in doubt is lost"),
            "{text}"
        );
        assert!(
            text.contains("2 may have been served; 0 are tried again, 2 are held"),
            "{text}"
        );
    }

    #[test]
    fn only_so_many_are_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for number in 0..KEPT + 5 {
            fs::write(dir.path().join(format!("recovery-{number:03}.txt")), "").expect("write");
        }
        fs::write(dir.path().join("attempts.log"), "").expect("write");
        prune(dir.path()).expect("pruned");
        let left = fs::read_dir(dir.path()).expect("list").count();
        assert_eq!(left, KEPT + 1);
        assert!(!dir.path().join("recovery-004.txt").exists());
        assert!(dir.path().join("recovery-005.txt").exists());
    }
}
