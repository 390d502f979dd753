//! Looking through `new/` for control files alone, a slice at a time, beside the look for everything.
//!
//! While nothing else is taken, for want of memory or room, they lie among the files that wait, of which there may be a
//! million.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use hikyaku_spool::faults::{Call, before};
use rustix::fs::{Mode, OFlags, RawDir};

use super::names::acceptable;
use super::{Candidate, DropDir, SLICE_BYTES, calls};
use crate::job::control::Verb;
use crate::time::Instant;

/// How far a look has come.
#[derive(Debug, Default)]
pub struct ControlScan(Option<OwnedFd>);

impl ControlScan {
    /// Whether it has begun and not come to the end.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.0.is_some()
    }
}

impl DropDir {
    /// Begins a look, or goes on with one: appends the control files of the next slice to `out`. The end of the
    /// directory ends it.
    ///
    /// # Errors
    /// `new/` cannot be read; the look has ended.
    pub fn scan_controls(
        &self,
        scan: &mut ControlScan,
        now: Instant,
        out: &mut Vec<Candidate>,
    ) -> io::Result<()> {
        // A place of its own in the directory: the other look keeps its own.
        let dir = match scan.0.take() {
            Some(dir) => dir,
            None => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                calls::open(&self.new, ".", flags, Mode::empty())?
            }
        };
        before(Call::Read(Path::new("new")))?;
        let mut buffer = Vec::with_capacity(SLICE_BYTES);
        let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
        let more = loop {
            let Some(entry) = entries.next() else {
                break false;
            };
            let entry = entry?;
            let name = acceptable(entry.file_name().to_bytes());
            if let Some(name) = name.filter(|name| Verb::of_name(name).is_some())
                && !self.leaves(name, now)
            {
                out.push(Candidate { name: name.into() });
            }
            if entries.is_buffer_empty() {
                break true;
            }
        };
        scan.0 = more.then_some(dir);
        Ok(())
    }
}
