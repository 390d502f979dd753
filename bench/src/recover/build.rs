//! A spool of many waiting recipients, made through the production crate and left as a killed process leaves it.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hikyaku::handoff::Acceptance;
use hikyaku::io::clock;
use hikyaku::mail::envelope::{self, ContentNeeds, Envelope};
use hikyaku_spool::{Full, Log, Options, Spool};
use rustix::fs::Advice;

use super::RecoverArgs;

/// What lies in the spool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Built {
    pub(super) messages: u64,
    pub(super) submissions: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// Makes the spool, its pages on disk and out of the page cache.
pub(super) fn build(args: &RecoverArgs, dir: &Path) -> Result<Built, Box<dyn Error>> {
    let started = Instant::now();
    let options = Options {
        spares: 6,
        message_bytes_max: 32 << 20,
        allow_any_filesystem: true,
        ..Options::default()
    };
    let spool_dir = dir.join("spool");
    let spool = Spool::open(&spool_dir, &options)?;
    let now = clock::wall();
    let mut built = Built::default();
    let mut left = args.recipients;
    let mut addresses = 0_u64;
    let content = vec![b'x'; args.size.max(2) - 2];
    for id in 0..args.shards {
        let (mut log, _) = spool.open_log(id, now.unix_millis())?;
        let mut writer = Writer::default();
        let share = left / u64::from(args.shards - id);
        left -= share;
        let mut waiting = share;
        while waiting > 0 {
            // As random as the engine's, and the same in every run.
            let submission = u128::from(built.submissions + 1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let mut acceptance = Acceptance {
                file: format!("recover-{:08}.eml", built.submissions),
                accepted_ms: now.unix_millis(),
                messages: 0,
                recipients: 0,
                logs: vec![id],
                suppressed: 0,
                keyed: None,
                job: None,
            };
            while waiting > 0 && acceptance.messages < args.per_submission {
                let recipients = waiting.min(args.per_message.into());
                let envelope = Envelope {
                    reverse_path: "bounces@sender.example".into(),
                    recipients: (addresses..addresses + recipients)
                        .map(|number| {
                            format!("user{number}@domain{}.example", number % args.domains).into()
                        })
                        .collect(),
                    needs: ContentNeeds::default(),
                    ..Envelope::default()
                };
                addresses += recipients;
                waiting -= recipients;
                acceptance.messages += 1;
                acceptance.recipients += recipients;
                writer.encoded.clear();
                envelope::encode(&envelope, now, &mut writer.encoded);
                let count = u32::try_from(recipients).unwrap_or(u32::MAX);
                let encoded = std::mem::take(&mut writer.encoded);
                writer.put(&mut log, |log| {
                    log.append_message(submission, count, &encoded, &[&content, b"\r\n"])
                        .map(drop)
                })?;
                writer.encoded = encoded;
            }
            let info = acceptance.encode();
            writer.put(&mut log, |log| log.append_accept(submission, &info))?;
            built.messages += acceptance.messages;
            built.submissions += 1;
        }
        writer.commit(&mut log)?;
        if let Some((_, file)) = &writer.open {
            file.sync_data()?;
        }
    }
    drop(spool);
    for file in files(&spool_dir)? {
        built.bytes += file.metadata()?.len();
    }
    built.seconds = started.elapsed().as_secs_f64();
    Ok(built)
}

/// Writes batches, and flushes a segment when it is full.
#[derive(Default)]
struct Writer {
    open: Option<(u32, File)>,
    encoded: Vec<u8>,
}

impl Writer {
    /// Appends until there is room.
    fn put(
        &mut self,
        log: &mut Log,
        mut append: impl FnMut(&mut Log) -> Result<(), Full>,
    ) -> Result<(), Box<dyn Error>> {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            match append(log) {
                Ok(()) => break,
                Err(Full::TooLarge) => return Err("a message does not fit a segment".into()),
                Err(_) if Instant::now() > give_up => {
                    let why = log.pool_error().unwrap_or("no spare segment for a minute");
                    return Err(why.to_owned().into());
                }
                Err(_) => {
                    // Spares are made by a thread of the log's.
                    self.commit(log)?;
                    log.reclaim();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        if log.waiting_bytes() >= 1 << 20 {
            self.commit(log)?;
        }
        Ok(())
    }

    fn commit(&mut self, log: &mut Log) -> io::Result<()> {
        while let Some(batch) = log.take_batch(clock::wall().unix_millis()) {
            if self
                .open
                .as_ref()
                .is_none_or(|(segment, _)| *segment != batch.segment)
            {
                if let Some((_, full)) = self.open.take() {
                    full.sync_data()?;
                    rustix::fs::fadvise(&full, 0, None, Advice::DontNeed)?;
                }
                let file = OpenOptions::new().write(true).open(&*batch.path)?;
                self.open = Some((batch.segment, file));
            }
            if let Some((_, file)) = &self.open {
                file.write_all_at(&batch.bytes, batch.offset)?;
            }
            log.committed(batch);
        }
        Ok(())
    }
}

/// All segment files.
pub(super) fn files(spool: &Path) -> io::Result<Vec<File>> {
    let mut all = Vec::new();
    for log in fs::read_dir(spool)? {
        let log = log?.path();
        if !log.is_dir() {
            continue;
        }
        for file in fs::read_dir(log)? {
            let path = file?.path();
            if path.extension().is_some_and(|end| end == "log") {
                all.push(File::open(path)?);
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(flags: &str) -> RecoverArgs {
        let line = format!("hikyaku-bench recover {flags}");
        match Cli::try_parse_from(line.split_whitespace())
            .expect("parses")
            .command
        {
            Command::Recover(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_spool_holds_what_was_asked_for() {
        let cases = [
            (
                "--recipients 2500 --per-message 1000 --per-submission 2 --shards 2",
                4,
                2,
            ),
            ("--recipients 300 --per-submission 1 --size 1", 300, 300),
        ];
        for (flags, messages, submissions) in cases {
            let dir = tempfile::tempdir().expect("directory");
            let args = args(flags);
            let built = build(&args, dir.path()).expect("built");
            assert_eq!(
                (built.messages, built.submissions),
                (messages, submissions),
                "{flags}"
            );
            let options = Options {
                allow_any_filesystem: true,
                ..Options::default()
            };
            let spool = Spool::open(&dir.path().join("spool"), &options).expect("opens");
            let mut left = 0;
            for id in spool.log_ids().expect("lists") {
                let (log, recovered) = spool.open_log(id, 0).expect("opens");
                assert_eq!(recovered.report.damage, []);
                assert!(recovered.submissions.iter().all(|of| of.accepted));
                left += log.recipients_left();
            }
            assert_eq!(left, args.recipients);
        }
    }
}
