//! A file system in an image whose power can be cut: made, mounted, shut down, unmounted, mounted again.
//!
//! The shutdown is an ioctl, and this crate forbids unsafe code, so a waiting `perl` makes it: started at each mount, told by
//! a line, so that the cut comes at once. Dropped, a disk is unmounted.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// Mounting is root's.
    #[error("powercut mounts a file system: run it as root")]
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

/// An image and where it is mounted.
#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
    point: PathBuf,
    mounted: bool,
    cutter: Option<Child>,
}

impl Disk {
    /// An empty ext4 in `dir`/disk.img, sparse, to be mounted on `dir`/disk.
    pub(super) fn make(dir: &Path, bytes: u64) -> Result<Self, DiskError> {
        let (image, point) = (dir.join("disk.img"), dir.join("disk"));
        let made = std::fs::create_dir(&point)
            .and_then(|()| std::fs::File::create_new(&image)?.set_len(bytes));
        made.map_err(|source| DiskError::Image {
            path: image.clone(),
            source,
        })?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F"]).arg(&image);
        call("mkfs.ext4", "e2fsprogs", &mut mkfs)?;
        Ok(Self {
            image,
            point,
            mounted: false,
            cutter: None,
        })
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.point.clone()
    }

    /// Mounts it; the journal is replayed.
    pub(super) fn mount(&mut self) -> Result<(), DiskError> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "ext4", "-o", "loop"])
            .args([&self.image, &self.point]);
        call("mount", "util-linux", &mut mount)?;
        self.mounted = true;
        let perl = Command::new("perl")
            .args(["-e", CUT])
            .arg(&self.point)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        self.cutter = Some(perl.map_err(|source| DiskError::Missing {
            program: "perl",
            package: "perl-base",
            source,
        })?);
        Ok(())
    }

    /// From now on nothing reaches the device, not even what the journal holds.
    pub(super) fn cut(&mut self) -> Result<(), DiskError> {
        let failed = |said: String| DiskError::Failed {
            program: "the shutdown of the file system",
            said,
        };
        let Some(mut cutter) = self.cutter.take() else {
            return Err(failed("it is not mounted".to_owned()));
        };
        if let Some(stdin) = &mut cutter.stdin {
            stdin
                .write_all(b"\n")
                .map_err(|error| failed(error.to_string()))?;
        }
        let output = cutter
            .wait_with_output()
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    /// Unmounts it. Files of a process that was killed may still be in use for a moment, by its rings.
    pub(super) fn unmount(&mut self) -> Result<(), DiskError> {
        self.let_go();
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

    fn let_go(&mut self) {
        if let Some(mut cutter) = self.cutter.take() {
            let _ = cutter.kill(); // It only waits.
            let _ = cutter.wait();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.let_go();
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
) -> Result<(), DiskError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| DiskError::Missing {
            program,
            package,
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(DiskError::Failed {
        program,
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// `EXT4_IOC_SHUTDOWN`, which is `_IOR('X', 125, __u32)`, with `EXT4_GOING_FLAGS_NOLOGFLUSH`, when a line comes in.
const CUT: &str = r#"open(my $root, "<", $ARGV[0]) or die "$ARGV[0]: $!";
defined(<STDIN>) or exit 0;
my $flags = pack("L", 2);
defined(ioctl($root, 0x8004587d, $flags)) or die "shutdown: $!";"#;
/// Longest wait for files that are in use.
const BUSY_MAX: Duration = Duration::from_secs(15);
