//! Looks at every message as the sink accepts it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hikyaku::io::secret;
use hikyaku::job::token::{JobId, Purpose, Secret, TOKEN_LEN, Token};
use hikyaku::sink::Arrival;
use xxhash_rust::xxh3::xxh3_64;

use super::dkim::{Sample, Verifier, decoded};
use super::work::{BOUNCES, UNSUBSCRIBE, Work};

/// What is known of all that has arrived.
pub(super) struct Checker {
    work: Work,
    spool: PathBuf,
    sample: u64,
    state: Mutex<State>,
}

struct State {
    /// XXH3 of the message of each row that has arrived; 0: it has not.
    seen: Vec<u64>,
    /// Copies beyond the first, by recipient.
    extra: BTreeMap<String, u64>,
    arrived: u64,
    copies: u64,
    bytes: u64,
    first_seen: Option<Instant>,
    last_seen: Option<Instant>,
    secret: Option<Secret>,
    job: Option<JobId>,
    verifier: Option<Verifier>,
    sampled: u64,
    faults: Faults,
}

/// What is wrong, the first few in words.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) told: Vec<String>,
    more: u64,
}

impl Faults {
    pub(super) fn add(&mut self, what: String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(what);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn end(mut self) -> Vec<String> {
        if self.more > 0 {
            self.told.push(format!("{} more of these", self.more));
        }
        self.told
    }
}

/// What came of it.
pub(super) struct Found {
    /// Copies beyond the first, by recipient.
    pub(super) extra: BTreeMap<String, u64>,
    pub(super) arrived: u64,
    pub(super) copies: u64,
    pub(super) bytes: u64,
    pub(super) first_seen: Instant,
    pub(super) last_seen: Instant,
    pub(super) sampled: u64,
    pub(super) verified: u64,
    pub(super) faults: Vec<String>,
}

impl Checker {
    pub(super) fn new(work: Work, spool: PathBuf, sample: u64, verifier: Option<Verifier>) -> Self {
        let rows = usize::try_from(work.rows).unwrap_or(0);
        Self {
            work,
            spool,
            sample,
            state: Mutex::new(State {
                seen: vec![0; rows],
                extra: BTreeMap::new(),
                arrived: 0,
                copies: 0,
                bytes: 0,
                first_seen: None,
                last_seen: None,
                secret: None,
                job: None,
                verifier,
                sampled: 0,
                faults: Faults::default(),
            }),
        }
    }

    /// Rows that have arrived.
    pub(super) fn arrived(&self) -> u64 {
        self.state().arrived
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn look(&self, arrival: &Arrival<'_>) {
        let mut state = self.state();
        let state = &mut *state;
        let now = Instant::now();
        state.first_seen.get_or_insert(now);
        state.last_seen = Some(now);
        state.copies += 1;
        state.bytes += arrival.content.len() as u64;
        let recipient = String::from_utf8_lossy(arrival.recipient);
        let Some(number) = self.work.number(&recipient) else {
            state.faults.add(format!("{recipient} is of no row"));
            return;
        };
        let hash = xxh3_64(arrival.content).max(1);
        let seen = &mut state.seen[usize::try_from(number).unwrap_or(0)];
        let before = std::mem::replace(seen, hash);
        if before != 0 {
            *state.extra.entry(recipient.to_string()).or_default() += 1;
            if before != hash {
                state
                    .faults
                    .add(format!("row {number}: copies differ ({recipient})"));
            }
            return;
        }
        state.arrived += 1;
        if state.secret.is_none() {
            match secret::load(&self.spool) {
                Ok(secret) => state.secret = Some(secret),
                Err(error) => return state.faults.add(error.to_string()),
            }
        }
        if let Some(secret) = &state.secret {
            let checked = self.check(number, &recipient, arrival, secret, &mut state.job);
            if let Err(what) = checked {
                state.faults.add(format!("row {number}: {what}"));
            }
        }
        if number.is_multiple_of(self.sample) {
            state.sampled += 1;
            let row = self.work.row(number);
            if let Err(what) = decoded(arrival.content, &row) {
                state.faults.add(format!("row {number}: {what}"));
            }
            if let Some(verifier) = &state.verifier {
                verifier.take(Sample {
                    number,
                    content: arrival.content.to_vec(),
                });
            }
        }
    }

    fn check(
        &self,
        number: u64,
        recipient: &str,
        arrival: &Arrival<'_>,
        secret: &Secret,
        job: &mut Option<JobId>,
    ) -> Result<(), String> {
        let message = str::from_utf8(arrival.content).map_err(|_| "not seven bits")?;
        let (header, body) = message.split_once("\r\n\r\n").ok_or("no header")?;
        let to = field(header, "To")?;
        if !to.contains(recipient) {
            return Err(format!("To: {to}"));
        }
        field(header, "From")?;
        let code = format!("\r\nCode {}\r\n", self.work.code(number));
        let found = body.matches(&code).count();
        if found != 2 {
            return Err(format!(
                "its code stands {found} times in the body, not twice"
            ));
        }
        let mut token = |purpose, text: &str| -> Result<(), String> {
            match Token::verify(secret, purpose, text) {
                Some((of, row)) if row == number && *job.get_or_insert(of) == of => Ok(()),
                told => Err(format!("{purpose:?} token {text} says {told:?}")),
            }
        };
        let list = field(header, "List-Unsubscribe")?;
        let at = list.find(UNSUBSCRIBE).ok_or("no address to unsubscribe")? + UNSUBSCRIBE.len();
        let text = list.get(at..at + TOKEN_LEN).ok_or("no token")?;
        token(Purpose::Unsubscribe, text)?;
        field(header, "List-Unsubscribe-Post")?;
        let id = field(header, "Message-ID")?;
        let text = id.strip_prefix('<').and_then(|id| id.split('@').next());
        token(Purpose::MessageId, text.unwrap_or(id))?;
        let path = String::from_utf8_lossy(arrival.reverse_path);
        let text = path
            .strip_prefix("bounce+")
            .and_then(|rest| rest.strip_suffix(BOUNCES)?.strip_suffix('@'));
        token(
            Purpose::Bounce,
            text.ok_or_else(|| format!("MAIL FROM {path}"))?,
        )
    }

    /// The account. To be called once, when the sink has ended.
    pub(super) fn finish(&self) -> Found {
        let mut state = self.state();
        let mut faults = std::mem::take(&mut state.faults);
        let verified = match state.verifier.take() {
            Some(verifier) => {
                let verified = verifier.finish(&mut faults);
                if verified != state.sampled {
                    faults.add(format!("{verified} of {} signatures verify", state.sampled));
                }
                verified
            }
            None => 0,
        };
        let missing = state.seen.iter().filter(|hash| **hash == 0).count();
        if missing > 0 {
            let first = state.seen.iter().position(|hash| *hash == 0);
            faults.add(format!("{missing} rows never arrived, the first {first:?}"));
        }
        let now = Instant::now();
        Found {
            extra: std::mem::take(&mut state.extra),
            arrived: state.arrived,
            copies: state.copies,
            bytes: state.bytes,
            first_seen: state.first_seen.unwrap_or(now),
            last_seen: state.last_seen.unwrap_or(now),
            sampled: state.sampled,
            verified,
            faults: faults.end(),
        }
    }
}

/// The value of a field that stands there once.
fn field<'a>(header: &'a str, name: &str) -> Result<&'a str, String> {
    let mut found = None;
    let mut rest = header;
    loop {
        let line = rest.split("\r\n").next().unwrap_or_default();
        let is_it = line
            .split_at_checked(name.len())
            .is_some_and(|(head, tail)| head.eq_ignore_ascii_case(name) && tail.starts_with(':'));
        // To the end of the last continuation line.
        let mut end = line.len();
        while rest[end..].starts_with("\r\n ") || rest[end..].starts_with("\r\n\t") {
            end += 2;
            end += rest[end..].find("\r\n").unwrap_or(rest.len() - end);
        }
        if is_it && found.replace(rest[name.len() + 1..end].trim()).is_some() {
            return Err(format!("{name} stands there twice"));
        }
        match rest.get(end + 2..) {
            Some(next) => rest = next,
            None => return found.ok_or_else(|| format!("no {name}")),
        }
    }
}

/// Faults in words.
const TOLD_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_once_and_whole() {
        let header = "To: a\r\n\tb\r\nFrom: x\r\nfrom: y\r\nX-To: z";
        assert_eq!(field(header, "To"), Ok("a\r\n\tb"));
        assert_eq!(field(header, "x-to"), Ok("z"));
        assert!(field(header, "From").is_err());
        assert!(field(header, "Cc").is_err());
    }
}
