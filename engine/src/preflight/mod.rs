//! Preflight: what receivers check, checked before the message is sent.
//!
//! ```text
//! message ─→ facts ─→ message rules ─┐
//! identities ─→ questions ⇄ answers ─→ DNS facts ─→ DNS rules ─┴→ findings ─→ verdict per receiver
//! ```
//!
//! Pure: bytes and answers in, findings out. [`examine`] looks at one finished message;
//! [`dns::DnsCheck`] asks what DNS says about its domains, keys and source addresses, once for a job. Rules are data
//! ([`finding::Rule`]): each names who demands it and where. What receivers decide by reputation and
//! content cannot be checked here: "ok" means that nothing stands against the message.

mod body;
pub mod dns;
pub mod finding;
pub mod message;
pub mod report;
pub mod rules;

use std::sync::Arc;

pub use finding::{Finding, Receiver, Severity, Verdict};
pub use report::Report;

use crate::time::WallTime;
use message::Facts;
use rules::Subject;

/// What is known of a message besides its bytes.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Marketing mail, which needs a way to unsubscribe; `false`: transactional.
    pub bulk: bool,
    /// When it will be sent.
    pub now: WallTime,
    /// Reverse-path, empty for `<>`; `None` when unknown.
    pub reverse_path: Option<String>,
    /// The engine would sign it.
    pub will_sign: bool,
    /// What 特定電子メール法 wants shown, as far as configured.
    pub law: Law,
}

/// What the body must show. Empty: not checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Law {
    /// Name of the sender.
    pub sender_name: Option<String>,
    /// Addresses or links where mail is refused, one of which must be there; a link in the message may go
    /// on where these end.
    pub opt_out: Vec<String>,
    /// Link (or text) that leads to postal address and contact.
    pub contact: Option<String>,
}

/// One message, looked at.
#[derive(Debug)]
pub struct Examined {
    /// What is so.
    pub facts: Facts,
    /// What is broken.
    pub findings: Vec<Finding>,
}

/// Looks at one finished message: as it goes out, lines ended by CRLF, before dot-stuffing. Any bytes will
/// do; time is linear in them.
#[must_use]
pub fn examine(message: &[u8], profile: &Arc<Profile>) -> Examined {
    examine_facts(Facts::read(message), profile)
}

/// The same with facts that were read already.
#[must_use]
pub fn examine_facts(facts: Facts, profile: &Arc<Profile>) -> Examined {
    let subject = Subject {
        facts,
        profile: Arc::clone(profile),
    };
    let findings = rules::examine(&subject);
    Examined {
        facts: subject.facts,
        findings,
    }
}
