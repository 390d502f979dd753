//! One site as a shard sees it: the domains whose turn it is, the connections, the pauses.
//!
//! The site's *limits* are not here: they hold for the whole process and lie in
//! [`crate::throttle`]. What is here belongs to one shard.

use std::sync::Arc;

use hikyaku_tuning::Limits;

use crate::dns::Hosts;
use crate::queue::calendar::CalendarKey;
use crate::queue::round::Round;
use crate::throttle::Path;
use crate::time::Instant;

/// Destinations that share one set of hosts.
#[derive(Debug)]
pub struct Site<Conn> {
    /// What throttles and log lines call it: a provider's name, or its hosts, or the domain.
    pub name: Arc<str>,
    /// Where to connect.
    pub hosts: Arc<Hosts>,
    /// Port to connect to.
    pub port: u16,
    /// What the site bears, as its profile and the operator say.
    pub limits: Limits,
    /// One egress path per egress source, in the order of the sources.
    pub paths: Vec<Arc<Path>>,
    /// Jobs and domains with ready recipients.
    pub round: Round,
    /// Domains that are routed here, with or without ready recipients.
    pub domains: u32,
    /// Connections of any kind: opening, busy, idle.
    pub connections: u32,
    /// Those of them that were not ready for a transaction yet.
    pub opening: u32,
    /// Those connections by egress source, in the order of the sources.
    pub held: Vec<u32>,
    /// Idle ones, most recently used last: the coldest ages out.
    pub idle: Vec<Conn>,
    /// Nobody connects before this moment (back-off after failed connections).
    pub not_before: Instant,
    /// Its hours; `None`: any time.
    pub calendar: Option<CalendarKey>,
    /// It was found outside of its hours, with somebody waiting.
    pub closed: bool,
    /// Consecutive rounds in which no connection could be had.
    pub failures: u16,
    /// A timer for this site is armed for this moment already.
    pub armed: Instant,
    /// Which source the next connection tries first.
    pub source_next: usize,
    /// Messages accepted here in this run.
    pub delivered: u64,
    /// Something here does not cope with streaming or with BDAT: one message at a time with DATA until
    /// the run ends.
    pub plain: bool,
    /// A TLS handshake failed here: go in clear until then, where the policy allows it.
    pub clear_until: Instant,
}

impl<Conn> Site<Conn> {
    /// A site that nobody has spoken to yet.
    #[must_use]
    pub fn new(
        name: Arc<str>,
        hosts: Arc<Hosts>,
        port: u16,
        limits: Limits,
        paths: Vec<Arc<Path>>,
    ) -> Self {
        Self {
            name,
            hosts,
            port,
            limits,
            held: vec![0; paths.len()],
            paths,
            round: Round::default(),
            domains: 0,
            connections: 0,
            opening: 0,
            idle: Vec::new(),
            not_before: Instant::default(),
            calendar: None,
            closed: false,
            failures: 0,
            armed: Instant::FAR_FUTURE,
            source_next: 0,
            delivered: 0,
            plain: false,
            clear_until: Instant::default(),
        }
    }

    /// How many connections the waiting recipients justify, limits aside.
    ///
    /// One for every [`RECIPIENTS_PER_CONNECTION`] that wait: a handful of messages shares one
    /// connection instead of opening a handful, a campaign opens all that the limits allow.
    #[must_use]
    pub fn connections_wanted(&self) -> u64 {
        self.round.ready().div_ceil(RECIPIENTS_PER_CONNECTION)
    }

    /// Whether one more may be opened while others are not ready yet.
    ///
    /// A few, and one for each that became ready: a site that answers has all it may within a few
    /// round trips, and one that answers a byte a minute on every connection holds no more than these
    /// few of the process's connections.
    #[must_use]
    pub const fn may_open(&self) -> bool {
        self.opening < OPENING_MIN + (self.connections - self.opening)
    }

    /// Nobody needs it: no connection, no domain, and neither a pause nor a closing time that a new one would forget.
    #[must_use]
    pub fn is_unused(&self, now: Instant) -> bool {
        self.connections == 0
            && self.domains == 0
            && self.round.is_empty()
            && self.not_before <= now
            && !self.closed
    }
}

/// A message takes two round trips on an open connection and a new connection takes about four
/// (TCP, greeting, EHLO, TLS), so a connection pays off from about four waiting messages.
const RECIPIENTS_PER_CONNECTION: u64 = 4;

/// Connections that a site opens before it has shown that it answers. Four set-ups in parallel hide
/// a round trip, and are no more than one message each for a site that has a handful.
const OPENING_MIN: u32 = 4;
