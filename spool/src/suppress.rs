//! The suppression list: who must not get mail, kept on disk, changed by other processes while the engine reads it.
//!
//! LMDB holds it: a B+tree in a memory map, copy on write. A change is durable when the call returns and seen by the next
//! check of every process; a kill or a power cut leaves the state before or after it, never between. Nothing of it is kept
//! in memory: what is resident are pages of the file, which the kernel takes back when it needs them.
//!
//! ```text
//! keys      hash of the address (16 bytes) -> hash of each scope it is suppressed in (8 bytes, sorted)   what a check reads
//! entries   hash of the address, hash of the scope -> time, scope, address, why                          what export prints
//! ```
//!
//! Addresses are compared with ASCII letters folded on both sides of the `@`: who unsubscribed as `John@` does not get mail as
//! `john@`, whatever RFC 5321 says about local parts. Two addresses with the same 128-bit hash would share their fate; among
//! 10^9 entries the chance is 10^-21.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{Database, DatabaseFlags, Env, EnvOpenOptions, PutFlags, RoTxn, RwTxn, WithoutTls};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::map::open_environment;

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

/// What is suppressed: mail from everybody, of one sender's domain, or of one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope<'a> {
    /// All mail.
    Global,
    /// Mail whose From has this domain.
    Sender(&'a str),
    /// Mail with this List-Id.
    List(&'a str),
}

impl Scope<'_> {
    fn hash(self) -> [u8; 8] {
        xxh3_64(self.to_string().to_ascii_lowercase().as_bytes()).to_be_bytes()
    }
}

impl std::fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Sender(domain) => write!(f, "sender:{domain}"),
            Self::List(list) => write!(f, "list:{list}"),
        }
    }
}

impl<'a> Scope<'a> {
    /// As [`Display`](std::fmt::Display) writes it.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "global" => Some(Self::Global),
            Some(("sender", domain)) if !domain.is_empty() => Some(Self::Sender(domain)),
            Some(("list", list)) if !list.is_empty() => Some(Self::List(list)),
            _ => None,
        }
    }
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

/// The list, open.
#[derive(Debug, Clone)]
pub struct Suppressions {
    env: Env<WithoutTls>,
    keys: Database<Bytes, Bytes>,
    entries: Database<Bytes, Bytes>,
    path: PathBuf,
}

impl Suppressions {
    /// Opens the list in `dir`, making it when it is not there.
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
        let failed = |source| SuppressError::Database {
            path: dir.into(),
            source,
        };
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options
            .map_size(MAP_BYTES)
            .max_dbs(2)
            .max_readers(READERS_MAX);
        let env = open_environment(&options, dir).map_err(failed)?;
        // Readers of processes that were killed would keep old pages alive for ever.
        env.clear_stale_readers().map_err(failed)?;
        let mut txn = env.write_txn().map_err(failed)?;
        let keys = env
            .database_options()
            .types::<Bytes, Bytes>()
            .name("keys")
            .flags(DatabaseFlags::DUP_SORT | DatabaseFlags::DUP_FIXED)
            .create(&mut txn)
            .map_err(failed)?;
        let entries = env
            .create_database(&mut txn, Some("entries"))
            .map_err(failed)?;
        txn.commit().map_err(failed)?;
        Ok(Self {
            env,
            keys,
            entries,
            path: dir.into(),
        })
    }

    fn failed(&self) -> impl Fn(heed::Error) -> SuppressError + '_ {
        |source| SuppressError::Database {
            path: self.path.clone(),
            source,
        }
    }

    /// A view of the list as it is now, for many checks.
    ///
    /// # Errors
    /// Too many readers, or the files cannot be read.
    pub fn view(&self) -> Result<View<'_>, SuppressError> {
        Ok(View {
            list: self,
            txn: self.env.read_txn().map_err(self.failed())?,
        })
    }

    /// The first of `scopes` in which `address` is suppressed now.
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

    /// Adds entries; tells how many were not there. All of them are durable when it returns, or none is there.
    ///
    /// # Errors
    /// Something is too long, or the disk is full.
    pub fn add(&self, entries: &[Entry]) -> Result<u64, SuppressError> {
        // In the order of the tree, a page is changed once and not once per entry.
        let mut sorted: Vec<([u8; 24], &Entry)> = Vec::with_capacity(entries.len());
        for entry in entries {
            for (what, text, max) in [
                ("the address", &entry.address, NAME_MAX),
                ("the scope", &entry.scope, NAME_MAX),
                ("the reason", &entry.reason, REASON_MAX),
            ] {
                if text.len() > max {
                    return Err(SuppressError::TooLong {
                        what,
                        octets: text.len(),
                        max,
                    });
                }
            }
            sorted.push((key(&entry.address, &entry.scope), entry));
        }
        sorted.sort_by_key(|(key, _)| *key);
        let mut txn = self.env.write_txn().map_err(self.failed())?;
        let mut added = 0;
        for (key, entry) in sorted {
            added += u64::from(self.insert(&mut txn, &key, entry).map_err(self.failed())?);
        }
        txn.commit().map_err(self.failed())?;
        Ok(added)
    }

    fn insert(&self, txn: &mut RwTxn<'_>, key: &[u8; 24], entry: &Entry) -> heed::Result<bool> {
        let (address, scope) = key.split_at(16);
        match self
            .keys
            .put_with_flags(txn, PutFlags::NO_DUP_DATA, address, scope)
        {
            Ok(()) => {}
            // There already: the older evidence stays.
            Err(heed::Error::Mdb(heed::MdbError::KeyExist)) => return Ok(false),
            Err(error) => return Err(error),
        }
        self.entries.put(txn, key, &encode(entry))?;
        Ok(true)
    }

    /// Takes an address out of one scope; tells whether it was there.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn remove(&self, address: &str, scope: Scope<'_>) -> Result<bool, SuppressError> {
        let key = key(address, &scope.to_string());
        let mut txn = self.env.write_txn().map_err(self.failed())?;
        let found = self.entries.delete(&mut txn, &key).map_err(self.failed())?;
        let (address, scope) = key.split_at(16);
        self.keys
            .delete_one_duplicate(&mut txn, address, scope)
            .map_err(self.failed())?;
        txn.commit().map_err(self.failed())?;
        Ok(found)
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn len(&self) -> Result<u64, SuppressError> {
        let txn = self.env.read_txn().map_err(self.failed())?;
        self.entries.len(&txn).map_err(self.failed())
    }

    /// Whether there is none.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn is_empty(&self) -> Result<bool, SuppressError> {
        Ok(self.len()? == 0)
    }
}

/// The list at one moment. Keep it for a batch of checks, not for longer: pages it may see are not reused.
pub struct View<'l> {
    list: &'l Suppressions,
    txn: RoTxn<'l, WithoutTls>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("list", self.list)
            .finish_non_exhaustive()
    }
}

impl View<'_> {
    /// The first of `scopes` in which `address` is suppressed.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn check<'a>(
        &self,
        address: &str,
        scopes: &[Scope<'a>],
    ) -> Result<Option<Scope<'a>>, SuppressError> {
        let failed = self.list.failed();
        let hash = address_hash(address);
        let found = self
            .list
            .keys
            .get_duplicates(&self.txn, &hash)
            .map_err(&failed)?;
        let Some(found) = found else { return Ok(None) };
        let mut in_scopes = Vec::new();
        for item in found {
            in_scopes.push(item.map_err(&failed)?.1.to_vec());
        }
        Ok(scopes
            .iter()
            .copied()
            .find(|scope| in_scopes.iter().any(|found| *found == scope.hash())))
    }

    /// Every entry, in the order of hashes.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn entries(
        &self,
    ) -> Result<impl Iterator<Item = Result<Entry, SuppressError>>, SuppressError> {
        let entries = self
            .list
            .entries
            .iter(&self.txn)
            .map_err(self.list.failed())?;
        Ok(entries.map(|item| {
            let (_, value) = item.map_err(self.list.failed())?;
            Ok(decode(value))
        }))
    }
}

fn address_hash(address: &str) -> [u8; 16] {
    xxh3_128(address.to_ascii_lowercase().as_bytes()).to_be_bytes()
}

fn key(address: &str, scope: &str) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&address_hash(address));
    key[16..].copy_from_slice(&xxh3_64(scope.to_ascii_lowercase().as_bytes()).to_be_bytes());
    key
}

/// Time, then the three texts with NUL between them; none holds one.
fn encode(entry: &Entry) -> Vec<u8> {
    let mut out = entry.added_wall_ms.to_be_bytes().to_vec();
    let clean = |text: &str| text.replace('\0', "");
    out.extend_from_slice(clean(&entry.scope).as_bytes());
    out.push(0);
    out.extend_from_slice(clean(&entry.address).as_bytes());
    out.push(0);
    out.extend_from_slice(clean(&entry.reason).as_bytes());
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str, scope: &str) -> Entry {
        Entry {
            address: address.into(),
            scope: scope.into(),
            added_wall_ms: 7,
            reason: "unsubscribe".into(),
        }
    }

    #[test]
    fn scopes_are_told_apart_and_letters_folded() {
        let dir = tempfile::tempdir().unwrap();
        let list = Suppressions::open(&dir.path().join("s")).unwrap();
        let entries = [
            entry("John@Example.com", "sender:shop.example"),
            entry("a@b.example", "global"),
        ];
        assert_eq!(list.add(&entries).unwrap(), 2);
        assert_eq!(list.add(&entries).unwrap(), 0, "again changes nothing");
        let shop = Scope::Sender("SHOP.example");
        let cases = [
            ("john@example.COM", &[Scope::Global, shop][..], Some(shop)),
            (
                "john@example.com",
                &[Scope::Global, Scope::List("shop.example")],
                None,
            ),
            ("A@B.example", &[shop, Scope::Global], Some(Scope::Global)),
            ("nobody@b.example", &[Scope::Global], None),
        ];
        for (address, scopes, expected) in cases {
            assert_eq!(list.check(address, scopes).unwrap(), expected, "{address}");
        }
        assert_eq!(list.len().unwrap(), 2);
        assert!(list.remove("JOHN@example.com", shop).unwrap());
        assert!(!list.remove("john@example.com", shop).unwrap());
        assert_eq!(list.check("john@example.com", &[shop]).unwrap(), None);
    }

    #[test]
    fn entries_come_out_as_they_went_in_and_stay_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let many: Vec<Entry> = (0..500)
            .map(|n| entry(&format!("u{n}@x.example"), "list:news"))
            .collect();
        {
            let list = Suppressions::open(dir.path()).unwrap();
            assert_eq!(list.add(&many).unwrap(), 500);
        }
        let list = Suppressions::open(dir.path()).unwrap();
        let view = list.view().unwrap();
        let mut out: Vec<Entry> = view.entries().unwrap().map(Result::unwrap).collect();
        out.sort_by_key(|entry| {
            entry.address[1..]
                .split('@')
                .next()
                .unwrap()
                .parse::<u32>()
                .unwrap()
        });
        assert_eq!(out, many);
    }

    #[test]
    fn a_view_sees_one_moment_and_a_check_sees_now() {
        let dir = tempfile::tempdir().unwrap();
        let list = Suppressions::open(dir.path()).unwrap();
        let view = list.view().unwrap();
        list.add(&[entry("a@b.example", "global")]).unwrap();
        assert_eq!(view.check("a@b.example", &[Scope::Global]).unwrap(), None);
        assert_eq!(
            list.check("a@b.example", &[Scope::Global]).unwrap(),
            Some(Scope::Global)
        );
    }

    #[test]
    fn what_is_longer_than_any_address_is_refused_whole() {
        let dir = tempfile::tempdir().unwrap();
        let list = Suppressions::open(dir.path()).unwrap();
        let both = [
            entry("a@b.example", "global"),
            entry(&"x".repeat(400), "global"),
        ];
        assert!(matches!(
            list.add(&both),
            Err(SuppressError::TooLong { octets: 400, .. })
        ));
        assert!(list.is_empty().unwrap());
    }

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for scope in [
            Scope::Global,
            Scope::Sender("a.example"),
            Scope::List("x:y"),
        ] {
            assert_eq!(Scope::parse(&scope.to_string()), Some(scope));
        }
        for bad in ["", "sender:", "list", "other:x"] {
            assert_eq!(Scope::parse(bad), None, "{bad}");
        }
    }
}
