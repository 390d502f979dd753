//! Batches: what `io/commit.rs` does with a file, done with virtual time on a disk that misbehaves.
//!
//! A write is under way for a while, then a flush; the process may end in either, and in the middle of a write some
//! first part of it is in the file.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

use hikyaku_spool::Batch;
use hikyaku_spool::faults::{Call, before};

use super::ledger::Checked;
use super::scenario::Rot;
use super::world::{Event, World};

/// The commit task of one store.
#[derive(Default)]
pub(super) struct Writer {
    batch: Option<(Batch, Phase)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Writing,
    Syncing,
}

impl World {
    /// Takes the next batch, if none is in flight.
    pub(super) fn take_batch(&mut self, shard: usize, store: usize) -> Checked {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        if process.shards[shard].writers[store].batch.is_some() {
            return Ok(());
        }
        let Some(Some(batch)) = self.turn(shard, |shard, now| shard.take_batch(now, store))? else {
            return Ok(());
        };
        if let Some(process) = &mut self.process {
            process.shards[shard].writers[store].batch = Some((batch, Phase::Writing));
        }
        let at = self.soon(400_000);
        self.at(at, Event::Store(shard, store));
        Ok(())
    }

    /// A write or a flush is done.
    pub(super) fn on_store(&mut self, shard: usize, store: usize) -> Checked {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        let Some((batch, phase)) = process.shards[shard].writers[store].batch.take() else {
            return Ok(());
        };
        match phase {
            Phase::Writing => {
                if self.write(&batch).is_err() {
                    return self.commit_failed();
                }
                if let Some(process) = &mut self.process {
                    process.shards[shard].writers[store].batch = Some((batch, Phase::Syncing));
                }
                let longest = u64::try_from(self.scenario.sync_max.as_nanos()).unwrap_or(u64::MAX);
                let at = self.soon(longest);
                self.at(at, Event::Store(shard, store));
            }
            Phase::Syncing => {
                if before(Call::Sync(&batch.path)).is_err() {
                    return self.commit_failed();
                }
                if self.rng.below(4) == 0 {
                    self.disk.write_back_maps(&self.spool_dir());
                }
                self.stats.commits += 1;
                if self
                    .turn(shard, |shard, now| shard.on_committed(now, store, batch))?
                    .is_none()
                {
                    return Ok(());
                }
                self.note_durable(shard);
                self.take_batch(shard, store)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut offset = batch.offset;
        if self.scenario.rot == Rot::Yes && !self.healthy && self.rng.below(60) == 0 {
            // To another place of the same file: no device tells.
            offset = self.rng.below(16) as u64 * 4096;
            self.disk.count_misdirected();
            self.ledger.overwritten = true;
            self.ledger.rotten = true;
        }
        before(Call::Open(&batch.path))?;
        before(Call::Write {
            path: &batch.path,
            offset,
            bytes: &batch.bytes,
        })?;
        let file = OpenOptions::new().write(true).open(&*batch.path)?;
        let end = file.metadata()?.len();
        let room = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        file.write_all_at(&batch.bytes[..batch.bytes.len().min(room)], offset)
    }

    /// As production: the process ends.
    fn commit_failed(&mut self) -> Checked {
        if !self.is_dead() {
            self.disk_failed = true;
            self.disk.drop_cache().map_err(World::trouble)?;
        }
        Ok(())
    }

    /// The process is gone in the middle of writes.
    pub(super) fn tear_writes(&mut self) -> io::Result<()> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        for shard in &mut process.shards {
            for writer in &mut shard.writers {
                let Some((batch, Phase::Writing)) = writer.batch.take() else {
                    continue;
                };
                let blocks = batch.bytes.len() / 512 + 1;
                let part = (self.rng.below(blocks) * 512).min(batch.bytes.len());
                // Remembered as not flushed, so that a power cut may take it back.
                self.disk.revive();
                before(Call::Write {
                    path: &batch.path,
                    offset: batch.offset,
                    bytes: &batch.bytes[..part],
                })?;
                OpenOptions::new()
                    .write(true)
                    .open(&*batch.path)?
                    .write_all_at(&batch.bytes[..part], batch.offset)?;
            }
        }
        Ok(())
    }
}
