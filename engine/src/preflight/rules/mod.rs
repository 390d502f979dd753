//! The checklist for what lies in the message itself, one file per group.
//!
//! Each rule says who demands it and where that is written: receivers' own pages, the replies that they
//! refuse with, RFCs.

mod addresses;
mod content;
mod header;
mod law;
mod lines;
mod list;
mod signature;
mod size;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::Profile;
use super::finding::{Finding, Receiver, Receivers, Rule};
use super::message::Facts;

/// What message rules look at.
#[derive(Debug)]
pub struct Subject {
    /// The message.
    pub facts: Facts,
    /// What is known besides.
    pub profile: Arc<Profile>,
}

/// All of them, in the order of output.
pub(super) const GROUPS: [&[Rule<Subject>]; 8] = [
    addresses::RULES,
    header::RULES,
    lines::RULES,
    size::RULES,
    list::RULES,
    signature::RULES,
    content::RULES,
    law::RULES,
];

/// What is broken.
#[must_use]
pub fn examine(subject: &Subject) -> Vec<Finding> {
    let rules = GROUPS.iter().copied().flatten();
    rules.filter_map(|rule| rule.examine(subject)).collect()
}

const NONE: Receivers = Receivers::NONE;
const ALL: Receivers = Receivers::ALL;
const GMAIL: Receivers = Receivers::of(&[Receiver::Gmail]);
const GMAIL_YAHOO: Receivers = Receivers::of(&[Receiver::Gmail, Receiver::Yahoo]);
const MICROSOFT: Receivers = Receivers::of(&[Receiver::Microsoft]);
const SOFTBANK: Receivers = Receivers::of(&[Receiver::SoftBank]);
const AU: Receivers = Receivers::of(&[Receiver::Au]);

/// "3 times", for messages.
fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}
