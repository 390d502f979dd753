//! Phase + event → outcome.
//!
//! What the phase alone decides, no rule can change: only 2yz to the final dot is a delivery, a
//! refusal before MAIL and any 421 defer, and a connection lost behind the final dot leaves the
//! recipient in doubt.

use std::time::Duration;

use super::rules::{BUILTIN, Rules, class_scope};
use super::text::{self, Buffer};
use super::{
    Class, Context, DnsFailure, Event, Outcome, Phase, RuleId, RulesError, Scope, ThrottleSignal,
    Unsupported, Verdict, codes,
};
use crate::limits::REPLY_TEXT_MAX;
use crate::mail::reply::Reply;

/// First retry at a greylist: most open after 1 to 5 minutes, and ours may be off by a clock tick.
const GREYLIST_RETRY: Duration = Duration::from_secs(5 * 60);
/// Mailbox rates are counted per hour (Gmail, Exchange Online 5.2.121).
const MAILBOX_RATE_RETRY: Duration = Duration::from_secs(3600);

/// The rules, and what is decided without them. One per shard, or shared: judging changes nothing.
#[derive(Debug)]
pub struct Classifier {
    rules: Rules,
}

impl Classifier {
    /// With the rules that the program carries.
    ///
    /// # Panics
    ///
    /// If those are wrong, which a test rules out.
    #[must_use]
    pub fn builtin() -> Self {
        match Self::from_toml(BUILTIN) {
            Ok(classifier) => classifier,
            Err(error) => panic!("built-in rules: {error}"),
        }
    }

    /// With the rules of an operator's file, instead of the built-in ones.
    ///
    /// # Errors
    ///
    /// The file is refused as a whole if one rule is wrong; the error names it.
    pub fn from_toml(text: &str) -> Result<Self, RulesError> {
        Ok(Self {
            rules: Rules::parse(text)?,
        })
    }

    /// The name of a rule, for the log.
    #[must_use]
    pub fn rule_name(&self, id: RuleId) -> &str {
        self.rules.get(id).map_or("", |rule| &rule.name)
    }

    /// Judges one event. A positive reply to the final dot costs a comparison.
    #[must_use]
    pub fn classify(&self, context: &Context<'_>, phase: Phase, event: Event<'_>) -> Outcome {
        match event {
            Event::Reply(reply) if phase == Phase::Dot && reply.is_positive() => Outcome::DELIVERED,
            Event::Reply(reply) if reply.is_transient() || reply.is_permanent() => {
                self.refusal(context, phase, reply)
            }
            // 2yz where nothing was offered for delivery, 3yz where it cannot be: after a dot, we
            // do not know which command it answers.
            Event::Reply(_) | Event::Protocol(_) => lost(phase, Class::Protocol),
            Event::TlsFailed(_) => lost(phase, Class::TlsFailed),
            Event::Timeout | Event::Closed | Event::Reset | Event::Refused | Event::Unreachable => {
                let mut outcome = lost(phase, Class::Network);
                if let Some((id, rule)) = self.rules.find_event(context.site, phase, event) {
                    outcome.class = rule.class;
                    outcome.scope = rule
                        .scope
                        .or(class_scope(rule.class))
                        .unwrap_or(outcome.scope)
                        .max(outcome.scope);
                    outcome.signal = rule.signal;
                    outcome.retry_after = rule.retry_after;
                    outcome.rule = Some(id);
                }
                outcome
            }
            Event::Dns(failure) => dns(failure),
            Event::Unsupported(need) => {
                let class = match need {
                    Unsupported::Size => Class::TooBig,
                    Unsupported::Smtputf8 | Unsupported::EightBit => Class::ContentMalformed,
                };
                Outcome::new(Verdict::Bounce, Scope::Message, class)
            }
        }
    }

    /// 4yz or 5yz.
    fn refusal(&self, context: &Context<'_>, phase: Phase, reply: &Reply) -> Outcome {
        let mut buffer: Buffer = [0; REPLY_TEXT_MAX];
        let prepared = text::prepare(&reply.text, context, &mut buffer);
        let found = self.rules.find_reply(
            context.site,
            phase,
            reply.code,
            codes::agreeing(reply),
            &prepared,
        );
        let class = match found {
            Some((_, rule)) => rule.class,
            None => match codes::class(phase, reply) {
                // The codes speak of the recipient and the text of us: believe the text.
                class if class.is_about_mailbox() && prepared.about_us => Class::Policy,
                class => class,
            },
        };
        let rule = found.map(|(_, rule)| rule);
        let mut outcome = Outcome::new(
            verdict(phase, reply, class, rule.and_then(|rule| rule.verdict)),
            scope(
                phase,
                reply,
                rule.map_or_else(
                    // A bare refusal before MAIL sends us to the next host, no further.
                    || class_scope(class).filter(|_| !phase.is_before_mail()),
                    |rule| rule.scope.or(class_scope(class)),
                ),
            ),
            class,
        );
        outcome.rule = found.map(|(id, _)| id);
        outcome.signal = rule.and_then(|rule| rule.signal);
        if outcome.signal.is_none() && class == Class::Throttle {
            outcome.signal = Some(ThrottleSignal::step_down(Scope::Source));
        }
        if outcome.verdict == Verdict::Deferral {
            outcome.retry_after = rule.and_then(|rule| rule.retry_after).or(match class {
                Class::Greylist => Some(GREYLIST_RETRY),
                Class::MailboxRate => Some(MAILBOX_RATE_RETRY),
                // The others of the same transaction were accepted; this one goes into the next.
                Class::TooManyRecipients => Some(Duration::ZERO),
                _ => None,
            });
        }
        outcome
    }
}

fn verdict(phase: Phase, reply: &Reply, class: Class, rule: Option<Verdict>) -> Verdict {
    // Before MAIL nobody has spoken about a message, and 421 says "not now" whatever follows.
    if phase.is_before_mail() || reply.code == 421 {
        return Verdict::Deferral;
    }
    if let Some(verdict) = rule {
        return verdict;
    }
    match class {
        // RFC 5321 §4.5.3.1.10: 552 for too many recipients is to be read as 452.
        Class::TooManyRecipients if phase == Phase::Rcpt => Verdict::Deferral,
        // "Bad sequence" says that the peer and we disagree about the session, never that the
        // recipient is wrong. A new session settles it; if not, the recipient expires.
        Class::Protocol if reply.code == 503 => Verdict::Deferral,
        _ if reply.is_transient() => Verdict::Deferral,
        _ => Verdict::Bounce,
    }
}

/// `about`: what rule or class say.
fn scope(phase: Phase, reply: &Reply, about: Option<Scope>) -> Scope {
    let least = if phase.is_before_mail() || matches!(reply.code, 421 | 503) {
        Scope::Session
    } else if phase == Phase::Rcpt {
        Scope::Recipient
    } else {
        Scope::Message
    };
    about.unwrap_or(least).max(least)
}

/// The session is of no more use. Behind the final dot, the peer may have the message.
fn lost(phase: Phase, class: Class) -> Outcome {
    Outcome {
        possible_duplicate: phase == Phase::Dot,
        ..Outcome::new(Verdict::Deferral, Scope::Session, class)
    }
}

/// A temporary failure never bounces (RFC 5321 §5.1).
fn dns(failure: DnsFailure) -> Outcome {
    let (verdict, class) = match failure {
        DnsFailure::NoSuchDomain | DnsFailure::BadName => (Verdict::Bounce, Class::DomainUnknown),
        DnsFailure::NullMx | DnsFailure::NoAddress => (Verdict::Bounce, Class::DomainNoMail),
        DnsFailure::MailLoop | DnsFailure::Prohibited => (Verdict::Bounce, Class::RouteFailure),
        DnsFailure::Temporary => (Verdict::Deferral, Class::DnsTemp),
    };
    Outcome::new(verdict, Scope::Site, class)
}

#[cfg(test)]
mod tests;
