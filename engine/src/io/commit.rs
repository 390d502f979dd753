//! Batches of one store: written and synced through the ring, one at a time.
//!
//! An error here ends the process. After a failed fdatasync nobody knows what is on the disk: the
//! kernel marks the pages clean and a second call reports success. Recovery, which reads what is
//! really there, is the only safe next step.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::GlommioError;
use glommio::io::{BufferedFile, OpenOptions};
use glommio::timer::Timer;
use hikyaku_spool::Batch;
use hikyaku_spool::faults::{Call, before, point};

use super::driver::Driver;
use super::socket;
use crate::shard::{Now, Shard};

/// Commits batches of store `index` for as long as the executor runs.
pub(crate) async fn commit_store(driver: Rc<Driver>, index: usize, sync: bool) {
    let mut open = None;
    loop {
        let Some(mut batch) = driver.take_batch(index) else {
            driver.commit_signal(index).wait().await;
            continue;
        };
        write(&mut open, &mut batch, sync).await;
        driver.committed(index, batch);
        point("commit.told");
    }
}

/// Opens a segment. Out of descriptors or memory nothing was written and nothing is in doubt: it
/// waits, and with it all that needs this batch.
async fn open_segment(path: &Path) -> std::io::Result<BufferedFile> {
    loop {
        let opened = match before(Call::Open(path)) {
            Ok(()) => OpenOptions::new()
                .read(true)
                .write(true)
                .buffered_open(path)
                .await
                .map_err(plain),
            Err(error) => Err(error),
        };
        match opened {
            Err(error) if socket::is_shortage(&error) => {
                socket::note_shortage();
                Timer::new(SHORT_WAIT).await;
            }
            opened => return opened,
        }
    }
}

/// With its errno, which glommio's own conversion drops.
fn plain(error: GlommioError<()>) -> std::io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

/// Between two tries to open a segment without a descriptor.
const SHORT_WAIT: Duration = Duration::from_millis(100);

/// Commits all that a restored shard has appended, before it delivers anything: whom the last process
/// was sending to is noted first, or what ends the process at once would never be found.
pub(crate) async fn commit_restored(shard: &mut Shard, now: Now, stores: usize, sync: bool) {
    for index in 0..stores {
        let mut open = None;
        while let Some(mut batch) = shard.take_batch(now, index) {
            write(&mut open, &mut batch, sync).await;
            shard.on_committed(now, index, batch);
        }
        close(open).await;
    }
}

/// The segment that is being written.
type Open = Option<(Arc<Path>, BufferedFile)>;

/// Everything in it was synced batch by batch; nothing can be lost by closing it.
async fn close(open: Open) {
    if let Some((_, file)) = open {
        let _ = file.close().await;
    }
}

/// One batch, written as a whole and synced.
async fn write(open: &mut Open, batch: &mut Batch, sync: bool) {
    if open.as_ref().is_none_or(|(path, _)| *path != batch.path) {
        close(open.take()).await;
        match open_segment(&batch.path).await {
            Ok(file) => *open = Some((Arc::clone(&batch.path), file)),
            Err(error) => fatal("opening", batch, &error),
        }
    }
    let Some((_, file)) = open else { return };
    point("commit.before-write");
    if let Err(error) = before(Call::Write {
        path: &batch.path,
        offset: batch.offset,
        bytes: &batch.bytes,
    }) {
        fatal("writing", batch, &error);
    }
    let bytes = std::mem::take(&mut batch.bytes);
    let length = batch.length;
    match file.write_at(bytes, batch.offset).await {
        Ok(written) if written == length => {}
        Ok(written) => fatal(
            "writing",
            batch,
            &format_args!("only {written} of {length} bytes were taken"),
        ),
        Err(error) => fatal("writing", batch, &error),
    }
    point("commit.before-sync");
    if sync {
        if let Err(error) = before(Call::Sync(&batch.path)) {
            fatal("syncing", batch, &error);
        }
        if let Err(error) = file.fdatasync().await {
            fatal("syncing", batch, &error);
        }
    }
    point("commit.synced");
}

fn fatal(doing: &str, batch: &Batch, error: &dyn std::fmt::Display) -> ! {
    eprintln!(
        "hikyaku: {doing} batch {} of {} at byte {} failed: {error}; the process ends, because what the disk \
         holds is unknown until the next start reads it back",
        batch.seq,
        batch.path.display(),
        batch.offset,
    );
    std::process::abort();
}
