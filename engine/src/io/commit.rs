//! Batches of one store: written and synced through the ring, one at a time.
//!
//! An error here ends the process. After a failed fdatasync nobody knows what is on the disk: the
//! kernel marks the pages clean and a second call reports success. Recovery, which reads what is
//! really there, is the only safe next step.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use glommio::io::{BufferedFile, OpenOptions};
use hikyaku_spool::Batch;
use hikyaku_spool::faults::{Call, before, point};

use super::driver::Driver;

/// Commits batches of store `index` for as long as the executor runs.
pub(crate) async fn commit_store(driver: Rc<Driver>, index: usize, sync: bool) {
    let mut open: Option<(Arc<Path>, BufferedFile)> = None;
    loop {
        let Some(mut batch) = driver.take_batch(index) else {
            driver.commit_signal(index).wait().await;
            continue;
        };
        if open.as_ref().is_none_or(|(path, _)| *path != batch.path) {
            if let Some((_, file)) = open.take() {
                // Everything in it was synced batch by batch; nothing can be lost by closing it.
                let _ = file.close().await;
            }
            if let Err(error) = before(Call::Open(&batch.path)) {
                fatal("opening", &batch, &error);
            }
            match OpenOptions::new()
                .read(true)
                .write(true)
                .buffered_open(&*batch.path)
                .await
            {
                Ok(file) => open = Some((Arc::clone(&batch.path), file)),
                Err(error) => fatal("opening", &batch, &error),
            }
        }
        let Some((_, file)) = &open else { continue };
        point("commit.before-write");
        if let Err(error) = before(Call::Write {
            path: &batch.path,
            offset: batch.offset,
            bytes: &batch.bytes,
        }) {
            fatal("writing", &batch, &error);
        }
        let bytes = std::mem::take(&mut batch.bytes);
        let length = batch.length;
        match file.write_at(bytes, batch.offset).await {
            Ok(written) if written == length => {}
            Ok(written) => fatal(
                "writing",
                &batch,
                &format_args!("only {written} of {length} bytes were taken"),
            ),
            Err(error) => fatal("writing", &batch, &error),
        }
        point("commit.before-sync");
        if sync {
            if let Err(error) = before(Call::Sync(&batch.path)) {
                fatal("syncing", &batch, &error);
            }
            if let Err(error) = file.fdatasync().await {
                fatal("syncing", &batch, &error);
            }
        }
        point("commit.synced");
        driver.committed(index, batch);
        point("commit.told");
    }
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
