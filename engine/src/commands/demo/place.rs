//! Where a demo keeps its files: a directory of its own, removed at the end unless it is to be kept.

use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::sink::workload::Workload;

/// `drop/` with its `tmp/` and `new/`; the engine makes the rest.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    keep: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("cannot make {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("--keep {0}: not empty: name a new directory, so that nothing is mixed up")]
    NotEmpty(PathBuf),
    #[error(
        "{path}: {free} MiB free, about {needed} MiB needed: set TMPDIR or --keep, or lower --messages"
    )]
    Space {
        path: PathBuf,
        free: u64,
        needed: u64,
    },
}

impl Place {
    /// Makes `keep`, or a directory that nobody else can read under TMPDIR, with room for `work`.
    pub(super) fn make(keep: Option<&Path>, work: &Workload) -> Result<Self, PlaceError> {
        let place = match keep {
            Some(path) => {
                fs::create_dir_all(path).map_err(make(path))?;
                if fs::read_dir(path).map_err(make(path))?.next().is_some() {
                    return Err(PlaceError::NotEmpty(path.into()));
                }
                Self {
                    path: path.into(),
                    keep: true,
                }
            }
            None => {
                let random = RandomState::new().build_hasher().finish();
                let path = std::env::temp_dir().join(format!("hikyaku-demo-{random:016x}"));
                DirBuilder::new()
                    .mode(0o700)
                    .create(&path)
                    .map_err(make(&path))?;
                Self { path, keep: false }
            }
        };
        place.check_space(work)?;
        for name in ["drop/tmp", "drop/new"] {
            let path = place.path.join(name);
            fs::create_dir_all(&path).map_err(make(&path))?;
        }
        Ok(place)
    }

    fn check_space(&self, work: &Workload) -> Result<(), PlaceError> {
        let Ok(system) = rustix::fs::statvfs(&self.path) else {
            return Ok(());
        };
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        let needed = needed(work);
        if free >= needed {
            return Ok(());
        }
        Err(PlaceError::Space {
            path: self.path.clone(),
            free: free >> 20,
            needed: needed >> 20,
        })
    }

    /// Leaves everything where it is.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!(
                "hikyaku: {} cannot be removed: {error}",
                self.path.display()
            );
        }
    }
}

fn make(path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.into();
    move |source| PlaceError::Make { path, source }
}

/// Each message once in a drop file and once in the spool, at worst both at once, and a line or two
/// of log; segments are allocated ahead.
fn needed(work: &Workload) -> u64 {
    let message = work.size as u64 * 2 + 1024;
    work.messages.saturating_mul(message) + (512 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_removed_or_kept() {
        let work = Workload {
            messages: 1,
            ..Workload::canonical(1)
        };
        let place = Place::make(None, &work).unwrap();
        let path = place.path().to_owned();
        assert!(path.join("drop/new").is_dir() && path.join("drop/tmp").is_dir());
        drop(place);
        assert!(!path.exists());

        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        drop(Place::make(Some(&path), &work).unwrap());
        assert!(path.join("drop/new").is_dir());
        let error = Place::make(Some(&path), &work).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert!(path.join("drop/new").is_dir(), "and left alone");
    }

    #[test]
    fn a_small_disk_is_refused() {
        let work = Workload {
            messages: u64::MAX / 16384,
            ..Workload::canonical(1)
        };
        let error = Place::make(None, &work).unwrap_err();
        assert!(error.to_string().contains("set TMPDIR"), "{error}");
    }
}
