//! A disk whose power can be cut.
//!
//! The shutdown is an ioctl, and this crate forbids unsafe code, so a waiting `perl` makes it: started at each mount, told by
//! a line, so that the cut comes at once.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::image::{Image, ImageError};

/// A file system that can be shut down under its users.
#[derive(Debug)]
pub(super) struct Disk {
    /// Before the image, which cannot be unmounted while it looks there.
    cutter: Option<Cutter>,
    image: Image,
}

impl Disk {
    /// An empty one in `dir`, of so many bytes.
    pub(super) fn make(dir: &Path, bytes: u64) -> Result<Self, ImageError> {
        Ok(Self {
            cutter: None,
            image: Image::make(dir, bytes)?,
        })
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.image.mount_point().to_owned()
    }

    /// Mounts it; the journal is replayed.
    pub(super) fn mount(&mut self) -> Result<(), ImageError> {
        self.image.mount()?;
        self.cutter = Some(Cutter::start(self.image.mount_point())?);
        Ok(())
    }

    /// From now on nothing reaches the device, not even what the journal holds.
    pub(super) fn cut(&mut self) -> Result<(), ImageError> {
        match self.cutter.take() {
            Some(cutter) => cutter.cut(),
            None => Err(failed("it is not mounted".to_owned())),
        }
    }

    /// Unmounts it.
    pub(super) fn unmount(&mut self) -> Result<(), ImageError> {
        self.cutter = None;
        self.image.unmount()
    }
}

/// The process that makes the call. Dropped, it is ended.
#[derive(Debug)]
struct Cutter(Child);

impl Cutter {
    fn start(point: &Path) -> Result<Self, ImageError> {
        let perl = Command::new("perl")
            .args(["-e", CUT])
            .arg(point)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        perl.map(Self).map_err(|source| ImageError::Missing {
            program: "perl",
            package: "perl-base",
            source,
        })
    }

    fn cut(mut self) -> Result<(), ImageError> {
        let said = |error: std::io::Error| failed(error.to_string());
        if let Some(mut stdin) = self.0.stdin.take() {
            stdin.write_all(b"\n").map_err(said)?;
        }
        let mut told = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut told).map_err(said)?;
        }
        if self.0.wait().map_err(said)?.success() {
            Ok(())
        } else {
            Err(failed(told))
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It only waits.
        let _ = self.0.wait();
    }
}

fn failed(said: String) -> ImageError {
    ImageError::Failed {
        program: "the shutdown of the file system",
        said,
    }
}

/// `EXT4_IOC_SHUTDOWN`, which is `_IOR('X', 125, __u32)`, with `EXT4_GOING_FLAGS_NOLOGFLUSH`, when a line comes in.
const CUT: &str = r#"open(my $root, "<", $ARGV[0]) or die "$ARGV[0]: $!";
defined(<STDIN>) or exit 0;
my $flags = pack("L", 2);
defined(ioctl($root, 0x8004587d, $flags)) or die "shutdown: $!";"#;
