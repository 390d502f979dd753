//! The spool's secret: 32 random octets that tokens, VERP addresses and Message-IDs of jobs are made
//! with ([`crate::job::token`]).
//!
//! Made at the first start, and never again: with another one no unsubscription link and no bounce
//! address of a message that was sent would be understood, and a message that is tried again would not
//! be the one that was tried before. So a secret that cannot be read, that others could have read, or
//! that is damaged ends the start.
//!
//! ```text
//! hikyaku-secret 1 <64 hexadecimal digits> <crc32c of all before, 8 digits>
//! ```
//! Made as a whole under another name and linked: a crash leaves no part of one, and of two starts at
//! once both have the same.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::random;
use crate::job::token::Secret;

const NAME: &str = "secret";
const WORDS: &str = "hikyaku-secret 1 ";
/// The words, the digits, the checksum, a line feed; more is read to see that there is more.
const LENGTH: usize = WORDS.len() + 64 + 1 + 8 + 1;

/// Why the secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read or made.
    #[error("secret {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Group or others have access.
    #[error(
        "secret {path} has mode {mode:04o}, so that others could forge unsubscriptions and bounces: run `chmod 600 {path}`; if they may have read it, remove it once no job waits: links in mail that was sent stop working then"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user's.
    #[error(
        "secret {path} belongs to user {owner} and this process runs as user {euid}: run `chown {euid} {path}`"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        euid: u32,
    },
    /// It is no secret of ours, or a part of it is gone.
    #[error(
        "secret {path} is damaged: put a copy back; without one remove it once no job waits: links in mail that was sent stop working then"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the secret of the spool in `dir`, or makes it. The spool is locked.
///
/// # Errors
/// It is there and cannot be used, or cannot be made.
pub fn load(dir: &Path) -> Result<Secret, SecretError> {
    let path = dir.join(NAME);
    let failed = |source| SecretError::File {
        path: path.clone(),
        source,
    };
    let open = || {
        OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
    };
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(dir, &path).map_err(failed)?;
            open()
        }
        opened => opened,
    };
    read(file.map_err(failed)?, &path)
}

/// Reads the secret of the spool in `dir` and makes none: for those who only look.
///
/// # Errors
/// It is not there, or cannot be used.
pub fn existing(dir: &Path) -> Result<Secret, SecretError> {
    let path = dir.join(NAME);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(|source| SecretError::File {
            path: path.clone(),
            source,
        })?;
    read(file, &path)
}

fn read(file: File, path: &Path) -> Result<Secret, SecretError> {
    let failed = |source| SecretError::File {
        path: path.into(),
        source,
    };
    let meta = file.metadata().map_err(failed)?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.into();
        return Err(SecretError::Mode { path, mode });
    }
    let euid = rustix::process::geteuid().as_raw();
    if meta.uid() != euid && meta.uid() != 0 {
        return Err(SecretError::Owner {
            path: path.into(),
            owner: meta.uid(),
            euid,
        });
    }
    let mut text = Vec::with_capacity(LENGTH + 1);
    file.take(LENGTH as u64 + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    let octets = parse(&text).ok_or_else(|| SecretError::Damaged { path: path.into() });
    text.fill(0);
    Ok(Secret::new(&octets?))
}

fn parse(text: &[u8]) -> Option<[u8; 32]> {
    let said = str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let (said, crc) = said.rsplit_once(' ')?;
    let digits = said.strip_prefix(WORDS)?;
    if digits.len() != 64 || crc != format!("{:08x}", crc32c::crc32c(said.as_bytes())) {
        return None;
    }
    let mut octets = [0; 32];
    for (octet, at) in octets.iter_mut().zip((0..).step_by(2)) {
        *octet = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    Some(octets)
}

fn make(dir: &Path, path: &Path) -> io::Result<()> {
    let mut text = WORDS.to_owned();
    for _ in 0..4 {
        // Writing to a String cannot fail.
        let _ = write!(text, "{:016x}", random::next());
    }
    let crc = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, " {crc:08x}");
    let made = dir.join(format!("{NAME}.{}.new", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&made)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = match fs::hard_link(&made, path) {
        // Another start was faster: its secret it is.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    fs::remove_file(&made)?;
    linked?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::job::token::{JobId, Purpose, Token};

    fn token(secret: &Secret) -> String {
        let token = Token::sign(secret, Purpose::Bounce, JobId(1), 2);
        token.as_str().to_owned()
    }

    #[test]
    fn made_once_and_found_again() {
        let dir = tempfile::tempdir().expect("directory");
        let first = token(&load(dir.path()).expect("made"));
        assert_eq!(token(&load(dir.path()).expect("read")), first);
        let names = fs::read_dir(dir.path()).expect("listing").count();
        assert_eq!(names, 1, "nothing else is left");
        let mode = fs::metadata(dir.path().join(NAME)).expect("there").mode();
        assert_eq!(mode & 0o7777, 0o600);
        let other = tempfile::tempdir().expect("directory");
        assert_ne!(token(&load(other.path()).expect("made")), first);
    }

    #[test]
    fn one_that_others_could_read_or_that_is_damaged_ends_the_start() {
        let dir = tempfile::tempdir().expect("directory");
        load(dir.path()).expect("made");
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).expect("there");
        let told = |bytes: &[u8]| {
            fs::write(&path, bytes).expect("write");
            load(dir.path()).expect_err("refused").to_string()
        };
        let mut flipped = whole.clone();
        flipped[WORDS.len() + 5] ^= 1;
        let longer = [&whole[..], b"x"].concat();
        let cut = &whole[..whole.len() - 1];
        for bytes in [&[][..], &flipped, &longer, cut, &[0xff; 90]] {
            let said = told(bytes);
            assert!(said.contains("is damaged: put a copy back"), "{said}");
        }
        fs::write(&path, &whole).expect("write");
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
            let said = load(dir.path()).expect_err("refused").to_string();
            assert!(said.contains("run `chmod 600"), "{said}");
        }
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("link");
        assert!(load(dir.path()).is_err(), "a link leads elsewhere");
    }
}
