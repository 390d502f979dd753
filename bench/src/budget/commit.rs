//! The disk's part: a batch written and flushed through the executor's ring, as `io/commit.rs` does.
//!
//! CPU time of the whole process, since the kernel does buffered writes on workers of the ring. Wall
//! time measures the disk and stands beside it.

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use glommio::io::OpenOptions;
use glommio::{LocalExecutorBuilder, Placement};

use crate::cpu;

/// What a batch took, microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Committed {
    /// CPU for each batch.
    pub cpu_us: f64,
    /// Wall time of each batch.
    pub wall_us: f64,
}

/// Writes `batches` of `bytes` each, one behind another in a file in `base` that was filled with
/// zeros before, as spare segments are.
///
/// # Errors
/// The disk's, or no executor.
pub fn run(base: &Path, bytes: usize, batches: usize) -> Result<Committed, Box<dyn Error>> {
    let mut file = tempfile::Builder::new()
        .prefix("hikyaku-commit-")
        .tempfile_in(base)?;
    fill(file.as_file_mut(), bytes.saturating_mul(batches))?;
    let path = file.path().to_owned();
    let thread = std::thread::Builder::new()
        .name("commit".into())
        .spawn(move || {
            LocalExecutorBuilder::new(Placement::Unbound)
                .io_memory(64 << 10)
                .ring_depth(512)
                .make()
                .map_err(|error| error.to_string())?
                .run(commit(path, bytes, batches))
                .map_err(|error| error.to_string())
        })?;
    Ok(thread.join().map_err(|_| "the executor panicked")??)
}

async fn commit(path: PathBuf, bytes: usize, batches: usize) -> std::io::Result<Committed> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .buffered_open(&path)
        .await?;
    // Made beforehand: to put a batch together is the shard's work.
    let mut made: Vec<Vec<u8>> = (0..batches).map(|_| vec![b'x'; bytes]).collect();
    let (begun, cpu) = (Instant::now(), cpu::process());
    let mut offset = 0;
    while let Some(batch) = made.pop() {
        file.write_at(batch, offset).await?;
        file.fdatasync().await?;
        offset += bytes as u64;
    }
    let each = 1.0 / batches.max(1) as f64;
    let committed = Committed {
        cpu_us: cpu::us(cpu::process() - cpu) * each,
        wall_us: cpu::us(begun.elapsed()) * each,
    };
    file.close().await?;
    Ok(committed)
}

fn fill(file: &mut File, mut bytes: usize) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    while bytes > 0 {
        let part = bytes.min(zeros.len());
        file.write_all(&zeros[..part])?;
        bytes -= part;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_written() {
        if hikyaku::io::executor::probe().is_err() {
            eprintln!("skipped: this process may not use io_uring");
            return;
        }
        let committed = run(&std::env::temp_dir(), 8192, 3).unwrap();
        assert!(committed.cpu_us > 0.0 && committed.wall_us > 0.0);
    }
}
