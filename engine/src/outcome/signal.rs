//! What a reply asks of the throttle, in the throttle's terms but without its types.
//!
//! A signal is a wish; hysteresis and the operator's ceilings are the throttle's affair.

use std::time::Duration;

use super::Scope;

/// What to do about an egress path, a site or a tenant, and for how long.
///
/// Every field that is set applies, for `duration`, once `trigger` is reached. A signal without any
/// of them asks only for the throttle's ordinary step down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrottleSignal {
    /// Who slows down: [`Scope::Source`] is the egress path (this source at this site),
    /// [`Scope::Site`] all sources there, [`Scope::Tenant`] the sending domain.
    pub applies_to: Scope,
    /// Nothing at all for the duration.
    pub pause: bool,
    /// At most this rate.
    pub rate: Option<RateCap>,
    /// At most this many connections at once.
    pub connections_max: Option<u16>,
    /// At most this many recipients per transaction.
    pub recipients_max: Option<u16>,
    /// The receiver counts messages per connection and ours were too many: reconnect at once, and
    /// send at most as many as this session had.
    pub session_full: bool,
    /// Use TLS from now on.
    pub tls_required: bool,
    /// How long it holds.
    pub duration: Duration,
    /// How often the reply must have been seen before it counts.
    pub trigger: Trigger,
}

impl ThrottleSignal {
    /// One step down, by the throttle's own measure.
    #[must_use]
    pub const fn step_down(applies_to: Scope) -> Self {
        Self {
            applies_to,
            pause: false,
            rate: None,
            connections_max: None,
            recipients_max: None,
            session_full: false,
            tls_required: false,
            duration: Duration::from_secs(30 * 60),
            trigger: Trigger::IMMEDIATE,
        }
    }
}

/// So many messages per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateCap {
    /// Never zero.
    pub messages: u32,
    /// Never zero.
    pub per: Duration,
}

/// How often a reply must have been seen before its signal counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// This many times, at least 1.
    pub hits: u16,
    /// Within this time.
    pub within: Duration,
}

impl Trigger {
    /// The first one counts.
    pub const IMMEDIATE: Self = Self {
        hits: 1,
        within: Duration::from_secs(3600),
    };
}
