//! An ext4 in an image file, mounted by a loop device: for harnesses that fill a disk or cut its power.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// Mounting is root's.
    #[error("a file system is to be mounted: run it as root")]
    NotRoot,
    /// A program is missing.
    #[error("{program} cannot be run: {source}: install {package}")]
    Missing {
        /// Which.
        program: &'static str,
        /// Where it comes from.
        package: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// The image cannot be made.
    #[error("image {path}: {source}")]
    Image {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// An image and where it is mounted. Dropped, it is unmounted.
#[derive(Debug)]
pub(crate) struct Image {
    image: PathBuf,
    point: PathBuf,
    mounted: bool,
}

impl Image {
    /// An empty ext4 of `bytes` in `dir`/disk.img, sparse and without a reserve for root, to be mounted on
    /// `dir`/disk.
    pub(crate) fn make(dir: &Path, bytes: u64) -> Result<Self, ImageError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ImageError::NotRoot);
        }
        let (image, point) = (dir.join("disk.img"), dir.join("disk"));
        let made = std::fs::create_dir(&point)
            .and_then(|()| std::fs::File::create_new(&image)?.set_len(bytes));
        made.map_err(|source| ImageError::Image {
            path: image.clone(),
            source,
        })?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-m", "0"]).arg(&image);
        call("mkfs.ext4", "e2fsprogs", &mut mkfs)?;
        Ok(Self {
            image,
            point,
            mounted: false,
        })
    }

    pub(crate) fn mount_point(&self) -> &Path {
        &self.point
    }

    /// Mounts it; the journal is replayed.
    pub(crate) fn mount(&mut self) -> Result<(), ImageError> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "ext4", "-o", "loop"])
            .args([&self.image, &self.point]);
        call("mount", "util-linux", &mut mount)?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it. Files of a process that was killed may still be in use for a moment, by its rings.
    pub(crate) fn unmount(&mut self) -> Result<(), ImageError> {
        let limit = Instant::now() + BUSY_MAX;
        loop {
            let mut umount = Command::new("umount");
            umount.arg(&self.point);
            match call("umount", "util-linux", &mut umount) {
                Ok(()) => break self.mounted = false,
                Err(error) if Instant::now() >= limit => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            // Whoever still uses it keeps it until then; the name is free at once.
            let _ = Command::new("umount").arg("-l").arg(&self.point).status();
        }
    }
}

fn call(
    program: &'static str,
    package: &'static str,
    command: &mut Command,
) -> Result<(), ImageError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ImageError::Missing {
            program,
            package,
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(ImageError::Failed {
        program,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Longest wait for files that are in use.
const BUSY_MAX: Duration = Duration::from_secs(15);
