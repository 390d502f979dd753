//! How a sink treats its peers: a value, so that a run can be repeated.
//!
//! A recipient's fate depends on its address and the script's seed alone (and, for "deferred once",
//! on whether it was seen before), never on timing. Stages that close connections count connections.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::bdat::{self, Bdat};

/// Behaviour of a sink. The default accepts everything at once and honours keywords in local parts.
///
/// As text: `refuse=5%,defer=10%,delay=20ms,close=dot/50,busy=100`, see [`Script::from_str`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Mixed into the hash that decides which recipients a share picks.
    pub seed: u64,
    /// Recipients that are refused for good: 550 5.1.1.
    pub refuse: Share,
    /// Recipients that get 451 4.7.1 the first time they are seen, and are accepted after.
    pub defer: Share,
    /// Recipients that always get 451 4.7.1.
    pub fail: Share,
    /// Whether local parts ask for a fate: the text before the first `-`, see [`Fate::of_keyword`].
    pub keywords: bool,
    /// Every reply waits this long, as over a long path; bursts overlap as they would there.
    pub reply_delay: Duration,
    /// How long the final reply of a message to `slow-…@` waits in addition.
    pub slow_delay: Duration,
    /// Hang up without a reply.
    pub close: Option<CloseAt>,
    /// Every n-th connection is greeted with 421 4.7.0 and closed; 0 for none.
    pub busy_every: u32,
    /// Messages after which MAIL gets 421 4.7.0 and the connection closes; 0 for any number.
    pub messages_per_session_max: u32,
    /// What happens to commands sent behind a final dot, or behind `BDAT .. LAST`.
    pub behind_dot: BehindDot,
    /// What happens to BDAT.
    pub bdat: Bdat,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            seed: 0,
            refuse: Share::NONE,
            defer: Share::NONE,
            fail: Share::NONE,
            keywords: true,
            reply_delay: Duration::ZERO,
            slow_delay: Duration::from_secs(2),
            close: None,
            busy_every: 0,
            messages_per_session_max: 0,
            behind_dot: BehindDot::Answer,
            bdat: Bdat::Answer,
        }
    }
}

/// A share in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// Everybody.
    pub const ALL: Self = Self(1_000_000);

    /// `ppm` parts per million; more than a million is everybody.
    #[must_use]
    pub const fn parts_per_million(ppm: u32) -> Self {
        if ppm > Self::ALL.0 {
            Self::ALL
        } else {
            Self(ppm)
        }
    }
}

/// Where a connection is closed without a reply (reliability document, fault R2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseAt {
    /// At which point of the dialogue.
    pub stage: Stage,
    /// On every n-th connection that is accepted; 1 means all of them.
    pub every: u32,
}

/// Points of the dialogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the banner.
    Banner,
    /// On EHLO or HELO.
    Ehlo,
    /// On STARTTLS.
    StartTls,
    /// On MAIL.
    Mail,
    /// On RCPT.
    Rcpt,
    /// On DATA or the first BDAT.
    Data,
    /// On the first bytes of content.
    Body,
    /// When the content is complete, without taking it.
    Dot,
    /// When the content is complete and was taken (counted, in the ledger): only the reply is lost.
    Accepted,
    /// On QUIT.
    Quit,
}

/// What a receiver does with bytes that came behind a final dot, in the same burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BehindDot {
    /// Reads them as the next commands, which RFC 2920 requires of a receiver with PIPELINING.
    Answer,
    /// Throws its input away after the dot: the commands get no reply.
    Discard,
    /// Replies to the dot, then closes.
    Close,
    /// Gives no reply to the first of them: the dot's stands for both.
    Merge,
    /// Replies to the first of them twice.
    Split,
    /// Replies to the dot last of all in that burst.
    Late,
    /// Says that the next content was accepted before it has come.
    Early,
    /// Answers MAIL with 503.
    RefuseMail,
    /// Answers RCPT with 503.
    RefuseRcpt,
    /// Throws away what came with DATA or BDAT.
    Swallow,
    /// Answers DATA with 354 though every recipient was refused, which RFC 2920 §3.1 allows.
    DataAnyway,
}

const BEHIND_DOT: [(&str, BehindDot); 11] = [
    ("answer", BehindDot::Answer),
    ("discard", BehindDot::Discard),
    ("close", BehindDot::Close),
    ("merge", BehindDot::Merge),
    ("split", BehindDot::Split),
    ("late", BehindDot::Late),
    ("early", BehindDot::Early),
    ("refuse-mail", BehindDot::RefuseMail),
    ("refuse-rcpt", BehindDot::RefuseRcpt),
    ("swallow", BehindDot::Swallow),
    ("data-anyway", BehindDot::DataAnyway),
];

/// What becomes of one recipient. Those from `SlowDot` on decide at the end of the content, and for
/// the whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Accept,
    /// 550 5.1.1 at RCPT.
    Refuse,
    /// 451 4.7.1 at RCPT, the first time.
    DeferOnce,
    /// 451 4.7.1 at RCPT, every time.
    Fail,
    /// 452 4.2.2 at RCPT, every time.
    Full,
    /// 421 4.7.0 at RCPT, then closed.
    Busy,
    /// Closed at RCPT.
    Close,
    SlowDot,
    /// 554 5.7.1 at the dot.
    RefuseDot,
    /// 451 4.7.1 at the dot, every time.
    DeferDot,
    /// Closed at the dot, the message not taken.
    CloseDot,
    /// Closed at the dot, the message taken.
    CloseAccepted,
}

impl Fate {
    /// The fate that a local part asks for: its text before the first `-`.
    fn of_keyword(local: &[u8]) -> Option<Self> {
        let end = memchr::memchr(b'-', local)?;
        Some(match &local[..end] {
            b"reject" => Self::Refuse,
            b"defer" => Self::DeferOnce,
            b"fail" => Self::Fail,
            b"full" => Self::Full,
            b"busy" => Self::Busy,
            b"close" => Self::Close,
            b"slow" => Self::SlowDot,
            b"rejectdot" => Self::RefuseDot,
            b"deferdot" => Self::DeferDot,
            b"closedot" => Self::CloseDot,
            b"closeafter" => Self::CloseAccepted,
            _ => return None,
        })
    }
}

impl Script {
    /// The fate of `address` (without `<>`), whose hash under this script's seed is `hash`.
    pub(super) fn fate(&self, address: &[u8], hash: u64) -> Fate {
        if self.keywords {
            let local = &address[..memchr::memrchr(b'@', address).unwrap_or(address.len())];
            if let Some(fate) = Fate::of_keyword(local) {
                return fate;
            }
        }
        // 0 to 999,999, evenly to within 1 in 4,000: the upper half of the hash scaled down.
        let place = ((hash >> 32) * u64::from(Share::ALL.0)) >> 32;
        let mut bound = u64::from(self.refuse.0);
        if place < bound {
            return Fate::Refuse;
        }
        bound += u64::from(self.defer.0);
        if place < bound {
            return Fate::DeferOnce;
        }
        bound += u64::from(self.fail.0);
        if place < bound {
            Fate::Fail
        } else {
            Fate::Accept
        }
    }

    /// The stage at which connection number `connection` (from 1) is closed.
    pub(super) fn close_stage(&self, connection: u64) -> Option<Stage> {
        self.close
            .filter(|c| c.every > 0 && connection.is_multiple_of(u64::from(c.every)))
            .map(|c| c.stage)
    }

    /// Whether connection number `connection` (from 1) is turned away.
    pub(super) fn is_busy(&self, connection: u64) -> bool {
        self.busy_every > 0 && connection.is_multiple_of(u64::from(self.busy_every))
    }
}

/// A script's text that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{part}` in the script is not {expected}")]
pub struct ScriptError {
    part: String,
    expected: &'static str,
}

impl FromStr for Script {
    type Err = ScriptError;

    /// Comma-separated settings: `refuse=P%`, `defer=P%`, `fail=P%`, `delay=T`, `slow=T` (`20ms`,
    /// `2s`), `close=STAGE[/N]`, `busy=N`, `messages=N`, `behind-dot=WORD` (answer discard close
    /// merge split late early refuse-mail refuse-rcpt swallow data-anyway), `bdat=WORD` (answer unknown
    /// commands sequence parameter leak twice late silent close taken), `keywords=on|off`, `seed=N`. Stages: banner ehlo starttls mail rcpt data body dot accepted quit.
    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut script = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let error = |expected| ScriptError {
                part: part.to_owned(),
                expected,
            };
            let (key, value) = part.split_once('=').ok_or_else(|| error("KEY=VALUE"))?;
            let share = || parse_share(value).ok_or_else(|| error("a share such as 5%"));
            let delay = || parse_delay(value).ok_or_else(|| error("a time such as 20ms or 2s"));
            let count = || value.parse().map_err(|_| error("a number"));
            match key {
                "refuse" => script.refuse = share()?,
                "defer" => script.defer = share()?,
                "fail" => script.fail = share()?,
                "delay" => script.reply_delay = delay()?,
                "slow" => script.slow_delay = delay()?,
                "busy" => script.busy_every = count()?,
                "messages" => script.messages_per_session_max = count()?,
                "seed" => script.seed = value.parse().map_err(|_| error("a number"))?,
                "close" => {
                    let (stage, every) = value.split_once('/').unwrap_or((value, "1"));
                    let stage =
                        parse_stage(stage).ok_or_else(|| error("a stage such as dot/50"))?;
                    let every = every.parse().ok().filter(|&n| n > 0);
                    script.close = Some(CloseAt {
                        stage,
                        every: every.ok_or_else(|| error("a stage such as dot/50"))?,
                    });
                }
                "behind-dot" => {
                    let known = BEHIND_DOT.iter().find(|(word, _)| *word == value);
                    script.behind_dot = known
                        .ok_or_else(|| {
                            error("behind-dot=answer or a known breach, such as discard")
                        })?
                        .1;
                }
                "bdat" => {
                    let known = bdat::WORDS.iter().find(|(word, _)| *word == value);
                    script.bdat = known
                        .ok_or_else(|| error("bdat=answer or a known breach, such as unknown"))?
                        .1;
                }
                "keywords" => {
                    script.keywords = match value {
                        "on" => true,
                        "off" => false,
                        _ => return Err(error("keywords=on or off")),
                    };
                }
                _ => return Err(error("a known setting")),
            }
        }
        Ok(script)
    }
}

fn parse_share(text: &str) -> Option<Share> {
    let percent: f64 = text.strip_suffix('%').unwrap_or(text).parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to a million"
    )]
    (0.0..=100.0)
        .contains(&percent)
        .then(|| Share((percent * 10_000.0).round() as u32))
}

fn parse_delay(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

fn parse_stage(text: &str) -> Option<Stage> {
    Some(match text {
        "banner" => Stage::Banner,
        "ehlo" => Stage::Ehlo,
        "starttls" => Stage::StartTls,
        "mail" => Stage::Mail,
        "rcpt" => Stage::Rcpt,
        "data" => Stage::Data,
        "body" => Stage::Body,
        "dot" => Stage::Dot,
        "accepted" => Stage::Accepted,
        "quit" => Stage::Quit,
        _ => return None,
    })
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 10_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_a_script_or_an_error_that_quotes_it() {
        let script: Script =
            "refuse=5%, defer=0.5%,delay=20ms,close=dot/50,busy=7,behind-dot=discard"
                .parse()
                .unwrap();
        assert_eq!(script.refuse, Share::parts_per_million(50_000));
        assert_eq!(script.defer.to_string(), "0.5%");
        assert_eq!(script.reply_delay, Duration::from_millis(20));
        assert_eq!(
            script.close,
            Some(CloseAt {
                stage: Stage::Dot,
                every: 50
            })
        );
        assert_eq!(
            (script.close_stage(50), script.close_stage(51)),
            (Some(Stage::Dot), None)
        );
        assert!(script.is_busy(14) && !script.is_busy(15));
        assert_eq!("".parse::<Script>().unwrap(), Script::default());
        for bad in [
            "refuse",
            "refuse=101%",
            "refuse=-1%",
            "delay=5",
            "delay=5h",
            "close=dot/0",
            "close=x",
            "x=1",
        ] {
            let error = bad.parse::<Script>().unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn shares_are_met_and_keywords_win() {
        let script: Script = "refuse=5%,defer=10%,fail=1%".parse().unwrap();
        let mut counts = [0_u32; 4];
        for i in 0..100_000 {
            let address = format!("u{i}@d.test");
            let hash = xxhash_rust::xxh3::xxh3_64(address.as_bytes());
            counts[match script.fate(address.as_bytes(), hash) {
                Fate::Refuse => 0,
                Fate::DeferOnce => 1,
                Fate::Fail => 2,
                _ => 3,
            }] += 1;
        }
        for (count, percent) in counts.into_iter().zip([5_u32, 10, 1, 84]) {
            assert!(
                count.abs_diff(percent * 1000) < 400,
                "{count} for {percent} %"
            );
        }
        assert_eq!(script.fate(b"reject-1@d.test", u64::MAX), Fate::Refuse);
        assert_eq!(script.fate(b"closeafter-1@d.test", 0), Fate::CloseAccepted);
        assert_eq!(script.fate(b"else-1@d.test", u64::MAX), Fate::Accept);
        let deaf = Script {
            keywords: false,
            ..Script::default()
        };
        assert_eq!(deaf.fate(b"reject-1@d.test", 0), Fate::Accept);
    }
}
