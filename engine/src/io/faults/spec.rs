//! SPEC as it is written: items, kinds of calls, names of errors.

use std::path::PathBuf;
use std::str::FromStr;

use rustix::io::Errno;

use super::POINTS;

/// The kinds of calls, in the order of their counters.
pub(super) const KINDS: [&str; 10] = [
    "open", "create", "allocate", "write", "read", "sync", "syncdir", "rename", "remove", "net",
];

/// A SPEC that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such item.
    #[error(
        "--faults {0}: not understood; items are kill=POINT:N, kill-call=K, fail=[KIND[@TEXT]:]K[+]:ERRNO, count=FILE, list"
    )]
    Item(String),
    /// No such point.
    #[error("--faults: there is no point {0}; --faults list prints them")]
    Point(String),
    /// No such kind.
    #[error("--faults: there is no kind of call {0}; kinds are {kinds}", kinds = KINDS.join(", "))]
    Kind(String),
    /// Not a number from 1 upwards.
    #[error("--faults: {0} is no number from 1 upwards")]
    Number(String),
    /// No such error.
    #[error("--faults: the errno {0} is not known by name")]
    Errno(String),
}

/// What shall befall a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spec {
    pub(super) kill_points: Vec<(usize, u64)>,
    pub(super) kill_call: Option<u64>,
    pub(super) failures: Vec<Failure>,
    pub(super) count: Option<PathBuf>,
    /// Print the points and end.
    pub list: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Index into [`KINDS`]; `None` for any call.
    pub(super) kind: Option<usize>,
    /// In the path; such calls have a count of their own.
    pub(super) text: Option<String>,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) errno: i32,
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        for item in text.split(',') {
            let wrong = || SpecError::Item(item.to_owned());
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            match (name, value) {
                ("list", "") => spec.list = true,
                ("kill", _) => {
                    let (point, number) = value.rsplit_once(':').ok_or_else(wrong)?;
                    let index = POINTS.iter().position(|(name, _)| *name == point);
                    let index = index.ok_or_else(|| SpecError::Point(point.to_owned()))?;
                    spec.kill_points.push((index, from_one(number)?));
                }
                ("kill-call", _) => spec.kill_call = Some(from_one(value)?),
                ("fail", _) => spec.failures.push(failure(value).ok_or_else(wrong)??),
                ("count", file) if !file.is_empty() => spec.count = Some(file.into()),
                _ => return Err(wrong()),
            }
        }
        Ok(spec)
    }
}

impl Spec {
    /// All of several flags.
    ///
    /// # Errors
    /// The first item that is not understood.
    pub fn parse_all(texts: &[String]) -> Result<Self, SpecError> {
        let mut all = Self::default();
        for text in texts {
            let spec: Self = text.parse()?;
            all.kill_points.extend(spec.kill_points);
            all.failures.extend(spec.failures);
            all.kill_call = spec.kill_call.or(all.kill_call);
            all.count = spec.count.or(all.count);
            all.list |= spec.list;
        }
        Ok(all)
    }
}

fn from_one(text: &str) -> Result<u64, SpecError> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(SpecError::Number(text.to_owned())),
    }
}

/// `[KIND:]K[+]:ERRNO`; `None` when it has another shape.
fn failure(value: &str) -> Option<Result<Failure, SpecError>> {
    let (call, errno) = value.rsplit_once(':')?;
    let (kind, number) = match call.split_once(':') {
        Some((kind, number)) => (Some(kind), number),
        None => (None, call),
    };
    let (kind, text) = match kind.map(|kind| kind.split_once('@').unwrap_or((kind, ""))) {
        Some((kind, "")) => (Some(kind), None),
        Some((kind, text)) => (Some(kind), Some(text.to_owned())),
        None => (None, None),
    };
    let parsed = || {
        let kind = kind.map(|kind| {
            let index = KINDS.iter().position(|name| *name == kind);
            index.ok_or_else(|| SpecError::Kind(kind.to_owned()))
        });
        let number_only = number.strip_suffix('+');
        let first = from_one(number_only.unwrap_or(number))?;
        let errno_found = ERRNOS.iter().find(|(name, _)| *name == errno);
        let (_, found) = errno_found.ok_or_else(|| SpecError::Errno(errno.to_owned()))?;
        Ok(Failure {
            kind: kind.transpose()?,
            text,
            first,
            last: number_only.map_or(first, |_| u64::MAX),
            errno: found.raw_os_error(),
        })
    };
    Some(parsed())
}

/// Errors that the calls of this program can meet.
const ERRNOS: [(&str, Errno); 33] = [
    ("EACCES", Errno::ACCESS),
    ("EADDRINUSE", Errno::ADDRINUSE),
    ("EADDRNOTAVAIL", Errno::ADDRNOTAVAIL),
    ("EAGAIN", Errno::AGAIN),
    ("EBADF", Errno::BADF),
    ("EBUSY", Errno::BUSY),
    ("ECONNREFUSED", Errno::CONNREFUSED),
    ("ECONNRESET", Errno::CONNRESET),
    ("EDQUOT", Errno::DQUOT),
    ("EEXIST", Errno::EXIST),
    ("EFBIG", Errno::FBIG),
    ("EHOSTUNREACH", Errno::HOSTUNREACH),
    ("EINTR", Errno::INTR),
    ("EINVAL", Errno::INVAL),
    ("EIO", Errno::IO),
    ("ELOOP", Errno::LOOP),
    ("EMFILE", Errno::MFILE),
    ("EMLINK", Errno::MLINK),
    ("ENETUNREACH", Errno::NETUNREACH),
    ("ENFILE", Errno::NFILE),
    ("ENOBUFS", Errno::NOBUFS),
    ("ENODEV", Errno::NODEV),
    ("ENOENT", Errno::NOENT),
    ("ENOMEM", Errno::NOMEM),
    ("ENOSPC", Errno::NOSPC),
    ("ENOTDIR", Errno::NOTDIR),
    ("ENXIO", Errno::NXIO),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EPERM", Errno::PERM),
    ("EPIPE", Errno::PIPE),
    ("EROFS", Errno::ROFS),
    ("ESTALE", Errno::STALE),
    ("ETIMEDOUT", Errno::TIMEDOUT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_spec_is_said() {
        for (spec, expected) in [
            ("", "not understood"),
            ("kill", "not understood"),
            ("kill=ingest.claimed", "not understood"),
            ("kill=nowhere:1", "there is no point nowhere"),
            ("kill=ingest.claimed:0", "0 is no number"),
            ("kill-call=x", "x is no number"),
            ("fail=EIO", "not understood"),
            ("fail=0:EIO", "0 is no number"),
            ("fail=1:EFOO", "errno EFOO"),
            ("fail=fsync:1:EIO", "no kind of call fsync"),
            ("count=", "not understood"),
            ("list=all", "not understood"),
            ("list,,", "not understood"),
        ] {
            let error = spec.parse::<Spec>().expect_err(spec).to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn several_flags_are_one_spec() {
        let flags = [
            "kill=ingest.claimed:2,fail=3:EIO",
            "fail=net:1:EMFILE,count=f",
        ]
        .map(str::to_owned);
        let all = Spec::parse_all(&flags).expect("specs");
        assert_eq!(
            (all.kill_points.len(), all.failures.len(), all.count),
            (1, 2, Some("f".into()))
        );
    }
}
