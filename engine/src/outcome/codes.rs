//! What the codes alone say, where no rule knows the text.
//!
//! Codes mislead: receivers use registered ones for other things, and 5.7.1 means anything. So this
//! is the last evidence, it never changes the verdict that the first digit gives, and where a code
//! has no single meaning the class is [`Class::Unknown`] rather than a guess.

use super::{Class, Phase};
use crate::mail::reply::{EnhancedCode, Reply};

/// The class of a refusal by its codes.
pub(super) fn class(phase: Phase, reply: &Reply) -> Class {
    agreeing(reply)
        .and_then(|code| enhanced(phase, code))
        .filter(|class| phase >= Phase::Rcpt || !class.is_about_mailbox())
        .unwrap_or_else(|| basic(phase, reply.code))
}

/// The enhanced code, unless its class contradicts the basic code (RFC 2034 §4): then it loses.
pub(super) fn agreeing(reply: &Reply) -> Option<EnhancedCode> {
    reply
        .enhanced
        .filter(|enhanced| u16::from(enhanced.class) == reply.code / 100)
}

/// RFC 3463, 5248, 7372, 7504, 7505, 8689 and the IANA registry that they feed.
fn enhanced(phase: Phase, code: EnhancedCode) -> Option<Class> {
    let permanent = code.class == 5;
    Some(match (code.subject, code.detail) {
        // 4.1.1 is what address verification and lookup troubles say: not yet known to be unknown.
        (1, 1) if permanent => Class::MailboxUnknown,
        (1, 2) => Class::DomainUnknown,
        // "Bad destination mailbox address syntax"; at MAIL it is about the reverse-path.
        (1, 3) if phase == Phase::Mail => Class::SenderRejected,
        (1, 3) if permanent => Class::MailboxUnknown,
        (1, 6) => Class::MailboxDisabled,
        (1, 7 | 8) => Class::SenderRejected,
        (1, 10) => Class::DomainNoMail,
        (2, 1) if permanent => Class::MailboxDisabled,
        (2, 1) => Class::MailboxRate,
        (2, 2) => Class::MailboxFull,
        (2, 3) | (3, 4) => Class::TooBig,
        (3, 5) => Class::SystemConfig,
        (3, 0..=3) if permanent => Class::SystemPerm,
        (3, 0..=3) | (4, 3) => Class::SystemTemp,
        (4, 1 | 2) if !permanent => Class::Network,
        (4, 4 | 6) => Class::RouteFailure,
        (4, 5) => Class::Throttle,
        (5, 3) => Class::TooManyRecipients,
        (5, 1 | 2 | 4 | 5) => Class::Protocol,
        (6, 0..=6) => Class::ContentMalformed,
        // Whatever is said about STARTTLS or our password is said about those.
        (_, _) if phase == Phase::StartTls => Class::TlsFailed,
        (7, _) if phase == Phase::Auth => Class::SystemConfig,
        (7, 10 | 30) => Class::TlsRequired,
        (7, 13 | 17) => Class::MailboxDisabled,
        (7, 20..=24 | 26 | 29) => Class::AuthFailed,
        (7, 25) => Class::AuthPtr,
        (7, 27) => Class::SenderRejected,
        (7, 28) => Class::Throttle,
        (7, _) => Class::Policy,
        _ => return None,
    })
}

/// RFC 5321 §4.2.3, 7504 and 4954. 450, 550 and 554 mean anything.
const fn basic(phase: Phase, code: u16) -> Class {
    match (code, phase) {
        // The host is full, or this address is not welcome just now.
        (421, Phase::Connect | Phase::Greeting | Phase::Ehlo) => Class::Throttle,
        (421 | 451 | 452, _) => Class::SystemTemp,
        (454, Phase::StartTls) => Class::TlsFailed,
        (530, _) if !matches!(phase, Phase::Auth) => Class::TlsRequired,
        (432 | 454 | 530 | 534 | 535 | 538, _) => Class::SystemConfig,
        (455 | 500..=504 | 555, _) => Class::Protocol,
        (521 | 556, Phase::Rcpt) => Class::DomainNoMail,
        (552, Phase::Rcpt) => Class::MailboxFull,
        (552, Phase::Mail | Phase::Dot) => Class::TooBig,
        (553, Phase::Mail) => Class::SenderRejected,
        (553, Phase::Rcpt) => Class::MailboxUnknown,
        // "No SMTP service here": for us, since RFC 5321 §3.1 makes it a greeting like any other.
        (400..=599, Phase::Connect | Phase::Greeting) => Class::IpBlock,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_they_can() {
        let cases = [
            ("rcpt", 550, Some((5, 1, 1)), Class::MailboxUnknown),
            ("rcpt", 450, Some((4, 1, 1)), Class::Unknown),
            ("rcpt", 452, Some((4, 2, 2)), Class::MailboxFull),
            ("rcpt", 550, Some((4, 2, 2)), Class::Unknown), // contradiction: the basic code alone
            ("mail", 550, Some((5, 1, 1)), Class::Unknown), // no recipient yet
            ("mail", 553, None, Class::SenderRejected),
            ("rcpt", 553, None, Class::MailboxUnknown),
            ("dot", 552, None, Class::TooBig),
            ("dot", 554, Some((5, 7, 26)), Class::AuthFailed),
            ("dot", 550, Some((5, 7, 1)), Class::Policy),
            ("dot", 554, None, Class::Unknown),
            ("greeting", 554, None, Class::IpBlock),
            ("greeting", 421, None, Class::Throttle),
            ("dot", 421, None, Class::SystemTemp),
            ("rcpt", 556, None, Class::DomainNoMail),
            ("rcpt", 552, Some((5, 5, 3)), Class::TooManyRecipients),
            ("starttls", 454, None, Class::TlsFailed),
            ("mail", 530, None, Class::TlsRequired),
            ("mail", 503, None, Class::Protocol),
        ];
        for (phase, code, enhanced, want) in cases {
            let reply = Reply {
                code,
                enhanced: enhanced.map(|(c, s, d)| EnhancedCode::new(c, s, d)),
                text: "".into(),
            };
            assert_eq!(
                class(Phase::from_name(phase).unwrap(), &reply),
                want,
                "{phase} {reply}"
            );
        }
    }
}
