//! The suppression list as an engine consults it: found when it appears, free of charge while it is empty.
//!
//! Operators change the list beside a running engine, and may make it only after the engine was started. So it is looked for
//! every [`LOOK_EVERY`]; until then nobody is asked about. Once it holds anything, each check reads the state of that moment.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::suppress::{Reader, Scope, SuppressError, Suppressions};

/// A list that may not be there yet. Shared by all threads of an engine.
#[derive(Debug)]
pub struct Suppressed {
    dir: PathBuf,
    list: OnceLock<Suppressions>,
    /// LMDB must not be opened twice by one process.
    opening: Mutex<()>,
    /// When it is looked at again, in the caller's nanoseconds.
    look_at: AtomicU64,
    empty: AtomicBool,
}

impl From<Suppressions> for Suppressed {
    /// A list that is open already, which LMDB wants to be once in a process.
    fn from(list: Suppressions) -> Self {
        let shared = Self::new(list.path());
        // Nobody else has it yet.
        let _ = shared.list.set(list);
        shared
    }
}

impl Suppressed {
    /// The list in `dir`, which nobody has to have made.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            list: OnceLock::new(),
            opening: Mutex::new(()),
            look_at: AtomicU64::new(0),
            empty: AtomicBool::new(true),
        }
    }

    /// Whether nobody is suppressed, as far as a look that is at most [`LOOK_EVERY`] old can tell. `now_ns` is of any clock
    /// that does not go back.
    ///
    /// # Errors
    /// The list is there and cannot be read.
    pub fn is_empty(&self, now_ns: u64) -> Result<bool, SuppressError> {
        if now_ns < self.look_at.load(Relaxed) {
            return Ok(self.empty.load(Relaxed));
        }
        let empty = match self.open()? {
            Some(list) => list.is_empty()?,
            None => true,
        };
        self.empty.store(empty, Relaxed);
        let every = u64::try_from(LOOK_EVERY.as_nanos()).unwrap_or(u64::MAX);
        self.look_at.store(now_ns.saturating_add(every), Relaxed);
        Ok(empty)
    }

    fn open(&self) -> Result<Option<&Suppressions>, SuppressError> {
        if let Some(list) = self.list.get() {
            return Ok(Some(list));
        }
        if !self.dir.join("data.mdb").exists() {
            return Ok(None);
        }
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if self.list.get().is_none() {
            // Nobody else sets it while we hold the lock.
            let _ = self.list.set(Suppressions::open(&self.dir)?);
        }
        Ok(self.list.get())
    }
}

/// One thread's way to ask a shared list.
#[derive(Debug)]
pub struct Asker {
    list: Arc<Suppressed>,
    /// When the list is open.
    reader: Option<Reader>,
}

impl Asker {
    /// One of a list that may not be there yet.
    #[must_use]
    pub const fn new(list: Arc<Suppressed>) -> Self {
        Self { list, reader: None }
    }

    /// As [`Suppressed::is_empty`].
    ///
    /// # Errors
    /// The list is there and cannot be read.
    pub fn is_empty(&self, now_ns: u64) -> Result<bool, SuppressError> {
        self.list.is_empty(now_ns)
    }

    /// For each of `addresses` the first of `scopes` in which it is suppressed now.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn check<'a, 's>(
        &mut self,
        addresses: impl IntoIterator<Item = &'a str>,
        scopes: &[Scope<'s>],
    ) -> Result<Vec<Option<Scope<'s>>>, SuppressError> {
        let addresses = addresses.into_iter();
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => match self.list.open()? {
                Some(list) => self.reader.insert(Reader::new(list)),
                None => return Ok(addresses.map(|_| None).collect()),
            },
        };
        reader.now()?.check(addresses, scopes)
    }
}

/// How often an engine looks whether there is anybody to be left out.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppress::Entry;

    #[test]
    fn a_list_that_cannot_be_opened_lets_nobody_pass() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("data.mdb"), [0x5a; 8192]).expect("written");
        let mut list = Asker::new(Arc::new(Suppressed::new(dir.path())));
        assert!(list.is_empty(0).is_err());
        assert!(list.check(["a@b.test"], &[Scope::Global]).is_err());
    }

    #[test]
    fn a_list_that_appears_is_found_and_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().join("suppressions");
        let mut list = Asker::new(Arc::new(Suppressed::new(&place)));
        assert!(list.is_empty(0).expect("no list"));
        let scopes = [Scope::Global, Scope::Sender("shop.example")];
        let none = list.check(["a@b.test"], &scopes).expect("no list");
        assert_eq!(none, [None]);
        drop(Suppressions::open(&place).expect("made"));
        assert!(list.is_empty(49_000_000).expect("not looked again"));
        assert!(list.is_empty(60_000_000).expect("found, with nobody in it"));
        // As another process would, but LMDB is open here already.
        let entry = |address: &str, scope: &str| Entry {
            address: address.into(),
            scope: scope.into(),
            added_wall_ms: 1,
            reason: "unsubscribe".into(),
        };
        let entries = [
            entry("A@b.test", "sender:shop.example"),
            entry("c@d.test", "sender:other.example"),
        ];
        let open = list.list.list.get().expect("open");
        assert_eq!(open.add(&entries).expect("added"), 2);
        assert!(!list.is_empty(200_000_000).expect("followed"));
        let found = list.check(["a@b.test", "c@d.test", "e@f.test"], &scopes);
        let shop = Some(Scope::Sender("shop.example"));
        assert_eq!(found.expect("checked"), [shop, None, None]);
    }
}
