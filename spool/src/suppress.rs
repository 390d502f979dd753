//! The suppression list: who must not get mail, kept on disk, changed by other processes while the engine reads it.
//!
//! LMDB holds it: a B+tree in a memory map, copy on write. A change is durable when the call returns and seen by the next
//! check of every process; a kill or a power cut leaves the state before or after it, never between. Nothing of it is copied
//! into memory: what is resident are pages of the file, which the kernel takes back when it needs them, and a table of where they
//! lie for each thread that asks.
//!
//! ```text
//! buckets    end and begin of a bucket -> its prints, 12 bytes each, in order         what a check reads      bucket.rs
//! evidence   print -> time, scope, address, why                                            what export prints
//! meta       "seed" -> what prints are hashed with                                                                  print.rs
//! ```
//!
//! A check is one search in the index, a tree of some ten thousand nodes for 10^8 entries that stays in a core's cache, and one
//! look into a bucket: mostly a single line of memory, which takes longer than all the rest. A [`Reader`] knows where buckets lie
//! and does without the search until somebody changes the list. Memory is what a check touches: 14 to 15 bytes per entry. An entry
//! of LMDB's own has 10 bytes of header, and pages of them are two thirds full; that is why prints share values of several pages.
//!
//! Addresses are compared with ASCII letters folded on both sides of the `@`: who unsubscribed as `John@` does not get mail as
//! `john@`, whatever RFC 5321 says about local parts.

mod bucket;
mod import;
mod print;
mod reader;
mod scope;
#[cfg(test)]
mod tests;
mod view;

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::hint::black_box;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{Database, Env, EnvOpenOptions, PutFlags, RwTxn, WithoutTls};

use crate::map::open_environment;
use bucket::Bounds;
use print::{Hashed, PLACE, Print, Seed, place};

pub use import::Import;
pub use reader::{Moment, Reader};
pub use scope::Scope;
pub use view::View;

/// Octets of an address or a scope; longer ones are refused.
const NAME_MAX: usize = 320;
/// Octets of why.
const REASON_MAX: usize = 1000;
/// Address space for the map: room for 10^9 entries, and no more than a number until it is written to.
const MAP_BYTES: usize = 256 << 30;
/// Processes that check at once: engines, and commands beside them.
const READERS_MAX: u32 = 256;

/// Why the list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SuppressError {
    /// The directory cannot be made.
    #[error("cannot make the directory of the suppression list {path}: {source}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// LMDB says so.
    #[error("suppression list {path}: {source}")]
    Database {
        /// Where.
        path: PathBuf,
        /// Why.
        source: heed::Error,
    },
    /// Another program made it.
    #[error("suppression list {path}: {what}")]
    Layout {
        /// Where.
        path: PathBuf,
        /// What is wrong, and what helps.
        what: &'static str,
    },
    /// What is to be imported cannot be sorted on disk.
    #[error("suppression list {path}: cannot keep what is imported beside it: {source}")]
    Import {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// An address or a scope is longer than any real one.
    #[error("{what} has {octets} octets; at most {max} can be stored")]
    TooLong {
        /// Which of them.
        what: &'static str,
        /// How long it is.
        octets: usize,
        /// How long it may be.
        max: usize,
    },
}

/// One entry, with the evidence that the law asks to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it was given.
    pub address: String,
    /// As [`Scope`] writes it.
    pub scope: String,
    /// When it was added, milliseconds since 1970.
    pub added_wall_ms: u64,
    /// How it came here: `unsubscribe`, `complaint`, `import` …
    pub reason: String,
}

impl Entry {
    fn check(&self) -> Result<(), SuppressError> {
        for (what, text, max) in [
            ("the address", &self.address, NAME_MAX),
            ("the scope", &self.scope, NAME_MAX),
            ("the reason", &self.reason, REASON_MAX),
        ] {
            let octets = text.len();
            if octets > max {
                return Err(SuppressError::TooLong { what, octets, max });
            }
        }
        Ok(())
    }
}

type Table = Database<Bytes, Bytes>;

/// The list, open.
#[derive(Debug, Clone)]
pub struct Suppressions {
    env: Env<WithoutTls>,
    index: Table,
    evidence: Table,
    seed: Seed,
    path: PathBuf,
}

impl Suppressions {
    /// Opens the list in `dir`, making it when it is not there. Does not wait for who is changing one that is.
    ///
    /// # Errors
    /// The directory or its files cannot be used.
    pub fn open(dir: &Path) -> Result<Self, SuppressError> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(SuppressError::Directory {
                    path: dir.into(),
                    source,
                });
            }
            _ => {}
        }
        let path = || dir.to_path_buf();
        let failed = |source| SuppressError::Database {
            path: path(),
            source,
        };
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options
            .map_size(MAP_BYTES)
            .max_dbs(3)
            .max_readers(READERS_MAX);
        let env = open_environment(&options, dir).map_err(failed)?;
        // Readers of processes that were killed would keep old pages alive for ever.
        env.clear_stale_readers().map_err(failed)?;
        let (index, evidence, seed) = match tables(&env).map_err(failed)? {
            Some(tables) => tables,
            None => make_tables(&env).map_err(failed)?,
        };
        let Some(seed) = seed else {
            let what = "it is of an earlier version: export it with that one, and import it into a new directory";
            return Err(SuppressError::Layout { path: path(), what });
        };
        Ok(Self {
            env,
            index,
            evidence,
            seed,
            path: path(),
        })
    }

    fn failed(&self) -> impl Fn(heed::Error) -> SuppressError + '_ {
        |source| SuppressError::Database {
            path: self.path.clone(),
            source,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A view of the list as it is now, for many checks.
    ///
    /// # Errors
    /// Too many readers, or the files cannot be read.
    pub fn view(&self) -> Result<View<'_>, SuppressError> {
        View::new(self)
    }

    /// The first of `scopes` in which `address` is suppressed now. Who asks often has a [`Reader`].
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn check<'a>(
        &self,
        address: &str,
        scopes: &[Scope<'a>],
    ) -> Result<Option<Scope<'a>>, SuppressError> {
        self.view()?.check(address, scopes)
    }

    /// The first of `scopes` in which an address is suppressed that belongs into this bucket.
    fn judge<'a>(
        &self,
        address: Hashed,
        (bounds, prints): (Bounds, &[u8]),
        scopes: &[Scope<'a>],
    ) -> Option<Scope<'a>> {
        let same = bucket::at(prints, bounds, address.place());
        // Almost always none: so scopes are hashed behind it.
        scopes.iter().copied().find(|scope| {
            !same.is_empty() && same.contains(&address.in_scope(self.seed.scope(*scope)))
        })
    }

    /// Adds entries; tells how many were not there. All of them are durable when it returns, or none is there.
    ///
    /// # Errors
    /// Something is too long, or the disk is full.
    pub fn add(&self, entries: &[Entry]) -> Result<u64, SuppressError> {
        let mut sorted = Vec::with_capacity(entries.len());
        for entry in entries {
            entry.check()?;
            let mut value = Vec::new();
            encode(entry, &mut value);
            sorted.push((self.seed.entry(&entry.address, &entry.scope), value));
        }
        // Of two that are the same, the first stays first.
        sorted.sort_by_key(|(print, _)| *print);
        let mut txn = self.env.write_txn().map_err(self.failed())?;
        let added = self.insert(&mut txn, &sorted).map_err(self.failed())?;
        txn.commit().map_err(self.failed())?;
        Ok(added)
    }

    /// Adds what is in ascending order; tells how many were not there.
    fn insert(
        &self,
        txn: &mut RwTxn<'_>,
        sorted: &[(Print, impl AsRef<[u8]>)],
    ) -> heed::Result<u64> {
        // The index first: pages are given out in order, and those that checks read then lie together.
        let fresh = self.insert_prints(txn, sorted)?;
        self.insert_evidence(txn, sorted, &fresh)?;
        Ok(fresh.len() as u64)
    }

    /// Adds what is in ascending order; gives the positions of those that were not there.
    fn insert_prints<T>(
        &self,
        txn: &mut RwTxn<'_>,
        sorted: &[(Print, T)],
    ) -> heed::Result<Vec<usize>> {
        let mut fresh = Vec::new();
        let mut rest = sorted;
        while let Some((print, _)) = rest.first() {
            let begin = sorted.len() - rest.len();
            let found = self
                .index
                .get_greater_than_or_equal_to(txn, key_of(print))?;
            let (bounds, old) =
                found.map_or((Bounds::ALL, &[][..]), |(key, old)| (Bounds::of(key), old));
            let (new, behind) =
                rest.split_at(rest.partition_point(|(print, _)| place(print) <= bounds.end));
            let before = fresh.len();
            let merged = bucket::merged(old, new.iter().map(|(print, _)| *print), |index| {
                fresh.push(begin + index);
            });
            if fresh.len() != before {
                // The last piece of a bucket that is split begins elsewhere: it has another key.
                let key = found.map(|(key, _)| key.to_vec());
                if let Some(key) = key {
                    self.index.delete(txn, &key)?;
                }
                let mut written = Ok(());
                bucket::split(&merged, bounds, |bounds, piece| {
                    if written.is_ok() {
                        written = self.put_bucket(txn, bounds, piece);
                    }
                });
                written?;
            }
            rest = behind;
        }
        Ok(fresh)
    }

    fn put_bucket(
        &self,
        txn: &mut RwTxn<'_>,
        bounds: Bounds,
        prints: &[Print],
    ) -> heed::Result<()> {
        self.index
            .put(txn, &bounds.key(), &bucket::laid_out(prints, bounds))
    }

    /// Adds the evidence of those that were not there; what is there already keeps its older one.
    fn insert_evidence(
        &self,
        txn: &mut RwTxn<'_>,
        sorted: &[(Print, impl AsRef<[u8]>)],
        fresh: &[usize],
    ) -> heed::Result<()> {
        let last = self.evidence.last(txn)?.map(|(print, _)| print.to_vec());
        let first = fresh.first().map(|index| &sorted[*index].0[..]);
        // Behind all others: LMDB then fills its pages.
        let flags = match last.as_deref() < first {
            true => PutFlags::APPEND,
            false => PutFlags::empty(),
        };
        for index in fresh {
            let (print, value) = &sorted[*index];
            self.evidence
                .put_with_flags(txn, flags, print, value.as_ref())?;
        }
        Ok(())
    }

    /// Takes an address out of one scope; tells whether it was there.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn remove(&self, address: &str, scope: Scope<'_>) -> Result<bool, SuppressError> {
        let print = self.seed.address(address).in_scope(self.seed.scope(scope));
        let mut txn = self.env.write_txn().map_err(self.failed())?;
        let found = self.take_out(&mut txn, &print).map_err(self.failed())?;
        txn.commit().map_err(self.failed())?;
        Ok(found)
    }

    fn take_out(&self, txn: &mut RwTxn<'_>, print: &Print) -> heed::Result<bool> {
        let found = self
            .index
            .get_greater_than_or_equal_to(txn, key_of(print))?;
        let left = found.and_then(|(key, old)| Some((key.to_vec(), bucket::without(old, print)?)));
        match left {
            None => return Ok(false),
            Some((key, left)) if left.is_empty() => {
                self.index.delete(txn, &key)?;
            }
            Some((key, left)) => self.put_bucket(txn, Bounds::of(&key), &left)?,
        }
        self.evidence.delete(txn, print)?;
        Ok(true)
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn len(&self) -> Result<u64, SuppressError> {
        let txn = self.env.read_txn().map_err(self.failed())?;
        self.evidence.len(&txn).map_err(self.failed())
    }

    /// Reads a word of every page that a check may read, so that all of them are in memory; tells how many octets they have.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn touch(&self) -> Result<u64, SuppressError> {
        let txn = self.env.read_txn().map_err(self.failed())?;
        let touched = || {
            let mut octets = 0;
            for item in self.index.iter(&txn)? {
                let (_, prints) = item?;
                black_box(
                    prints
                        .iter()
                        .step_by(PAGE)
                        .fold(0, |all, octet| all ^ octet),
                );
                octets += (prints.len() as u64).next_multiple_of(PAGE as u64);
            }
            Ok(octets)
        };
        touched().map_err(self.failed())
    }

    /// Whether there is none.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn is_empty(&self) -> Result<bool, SuppressError> {
        Ok(self.len()? == 0)
    }
}

/// The first key that is not less than this is that of a print's bucket.
fn key_of(print: &Print) -> &[u8] {
    &print[..PLACE]
}

/// The tables of a list that was made, without waiting for a writer; none of an empty directory. No seed: of another layout.
fn tables(env: &Env<WithoutTls>) -> heed::Result<Option<(Table, Table, Option<Seed>)>> {
    let txn = env.read_txn()?;
    let open = |name| env.open_database::<Bytes, Bytes>(&txn, Some(name));
    let found = match (open("buckets")?, open("evidence")?, open("meta")?) {
        (Some(index), Some(evidence), Some(meta)) => {
            let seed = meta.get(&txn, SEED)?.and_then(|seed| seed.try_into().ok());
            Some((index, evidence, seed.map(u64::from_le_bytes).map(Seed)))
        }
        _ => None,
    };
    txn.commit()?;
    Ok(found)
}

fn make_tables(env: &Env<WithoutTls>) -> heed::Result<(Table, Table, Option<Seed>)> {
    let mut txn = env.write_txn()?;
    // The main table holds the names of the others.
    let names: Option<Table> = env.open_database(&txn, None)?;
    for older in ["keys", "index"] {
        let found = names.map(|names| names.get(&txn, older.as_bytes()));
        if found.transpose()?.flatten().is_some() {
            let table = env.create_database(&mut txn, Some(older))?;
            return Ok((table, table, None));
        }
    }
    let index = env.create_database(&mut txn, Some("buckets"))?;
    let evidence = env.create_database(&mut txn, Some("evidence"))?;
    let meta: Table = env.create_database(&mut txn, Some("meta"))?;
    // Somebody else may have made it since we looked.
    let seed = match meta.get(&txn, SEED)?.and_then(|seed| seed.try_into().ok()) {
        Some(seed) => u64::from_le_bytes(seed),
        None => {
            // The standard library's own seeds come from the operating system, too.
            let seed = RandomState::new().build_hasher().finish();
            meta.put(&mut txn, SEED, &seed.to_le_bytes())?;
            seed
        }
    };
    txn.commit()?;
    Ok((index, evidence, Some(Seed(seed))))
}

const PAGE: usize = 4096;
const SEED: &[u8] = b"seed";
/// Time, then the three texts with NUL between them; none holds one.
fn encode(entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(&entry.added_wall_ms.to_be_bytes());
    out.extend(entry.scope.bytes().filter(|byte| *byte != 0));
    out.push(0);
    out.extend(entry.address.bytes().filter(|byte| *byte != 0));
    out.push(0);
    out.extend(entry.reason.bytes().filter(|byte| *byte != 0));
}

fn decode(value: &[u8]) -> Entry {
    let (time, texts) = value.split_at(value.len().min(8));
    let mut texts = texts.splitn(3, |byte| *byte == 0);
    let mut text = || String::from_utf8_lossy(texts.next().unwrap_or_default()).into_owned();
    let added_wall_ms = time.try_into().map_or(0, u64::from_be_bytes);
    let (scope, address, reason) = (text(), text(), text());
    Entry {
        address,
        scope,
        added_wall_ms,
        reason,
    }
}
