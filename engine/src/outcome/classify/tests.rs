//! The rules against the replies that they quote, the phases against what RFC 5321 demands of
//! them, and the whole against replies that somebody else collected.

use proptest::prelude::*;

use super::*;
use crate::mail::reply::EnhancedCode;

/// `550 5.1.1 text`, also with the `smtp;` that the field manual puts in front.
fn reply(text: &str) -> Reply {
    let text = text
        .trim_start_matches("smtp;")
        .trim_start_matches("SMTP;")
        .trim();
    let (code, rest) = text.split_at(3.min(text.len()));
    let code = code
        .parse()
        .unwrap_or_else(|_| panic!("no code in {text:?}"));
    let rest = rest.trim_start_matches([' ', '-']);
    let (first, tail) = rest.split_once(' ').unwrap_or((rest, ""));
    let parts: Vec<Option<u16>> = first.split('.').map(|part| part.parse().ok()).collect();
    match parts[..] {
        [Some(class @ (2 | 4 | 5)), Some(subject), Some(detail)] => {
            let enhanced = EnhancedCode::new(u8::try_from(class).unwrap(), subject, detail);
            Reply {
                code,
                enhanced: Some(enhanced),
                text: tail.into(),
            }
        }
        _ => Reply {
            code,
            enhanced: None,
            text: rest.into(),
        },
    }
}

fn phase(name: &str) -> Phase {
    Phase::from_name(name).unwrap_or_else(|| panic!("no phase {name:?}"))
}

#[test]
fn every_rule_decides_the_replies_that_it_quotes() {
    let classifier = Classifier::builtin();
    let mut wrong = String::new();
    for rule in classifier.rules.iter() {
        for text in rule.replies.iter().filter(|text| !text.starts_with('(')) {
            let context = Context {
                site: rule.site(),
                source: Some([192, 0, 2, 1].into()),
                ..Context::default()
            };
            let reply = reply(text);
            let outcome = classifier.classify(&context, rule.phase(), Event::Reply(&reply));
            let decided = outcome.rule.map_or("none", |id| classifier.rule_name(id));
            if decided != &*rule.name {
                wrong += &format!("{} is taken by {decided}: {text}\n", rule.name);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
/// Someone else's collection, our verdicts: see the README beside the file.
#[test]
fn collected_replies_are_judged_as_read() {
    const REPLIES: &str = include_str!("../../../tests/data/replies/smtp-field-manual.tsv");
    let classifier = Classifier::builtin();
    let mut wrong = String::new();
    let mut count = 0;
    for line in REPLIES.lines().filter(|line| !line.starts_with('#')) {
        let [site, at, verdict, class, text] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not five columns: {line}")
        };
        let context = Context {
            site: if site == "-" { "" } else { site },
            source: Some([192, 0, 2, 1].into()),
            ehlo: "out.sender.test",
            reverse_path: "b@sender.test",
            recipient: "email@rcpt.test",
        };
        let reply = reply(text);
        let outcome = classifier.classify(&context, phase(at), Event::Reply(&reply));
        let got = (outcome.verdict.as_str(), outcome.class.as_str());
        if got != (verdict, class) {
            wrong += &format!(
                "{got:?} by {:?}, not {verdict} {class}: {text}\n",
                outcome.rule.map(|id| classifier.rule_name(id))
            );
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(count, 204);
}

/// `phase event = verdict scope class [duplicate]`, with a site where it matters.
#[test]
fn phases_decide_first() {
    let cases = "
        dot      250 2.0.0 ok                       = delivered recipient delivered
        dot      299 whatever                       = delivered recipient delivered
        rcpt     250 ok                             = deferral session protocol
        data     250 ok                             = deferral session protocol
        dot      354 go                             = deferral session protocol duplicate
        dot      timeout                            = deferral session network duplicate
        dot      closed                             = deferral session network duplicate
        dot      reset                              = deferral session network duplicate
        dot      protocol                           = deferral session protocol duplicate
        dot      tls                                = deferral session tls-failed duplicate
        body     closed                             = deferral session network
        body     timeout                            = deferral session network
        data     closed                             = deferral session network
        dot      421 4.3.2 shutting down            = deferral session system-temp
        dot      451 4.3.0 again                    = deferral message system-temp
        dot      554 5.6.0 bad                      = bounce message content-malformed
        data     554 no                             = bounce message unknown
        data     503 bad sequence                   = deferral session protocol
        mail     550 5.1.8 unresolvable             = bounce tenant sender-rejected
        mail     552 5.3.4 limit                    = bounce message too-big
        mail     452 4.3.1 no room                  = deferral message system-temp
        rcpt     550 5.1.1 gone                     = bounce recipient mailbox-unknown
        rcpt     450 later                          = deferral recipient unknown
        rcpt     421 5.1.1 going                    = deferral session system-temp
        rcpt     552 too many recipients            = deferral recipient too-many-recipients
        rcpt     452 4.5.3 no more                  = deferral recipient too-many-recipients
        rcpt     552 5.5.3 no more                  = deferral recipient too-many-recipients
        rcpt     552 5.2.2 full                     = bounce recipient mailbox-full
        greeting 554 no SMTP service                = deferral session ip-block
        greeting 550 user unknown                   = deferral session ip-block
        greeting 421 busy                           = deferral session throttle
        ehlo     550 go away                        = deferral session unknown
        ehlo     501 5.5.4 bad name                 = deferral session protocol
        starttls 454 4.7.0 not now                  = deferral session tls-failed
        starttls tls                                = deferral session tls-failed
        auth     535 5.7.8 wrong                    = deferral session system-config
        connect  refused                            = deferral session network
        connect  reset                              = deferral session network
        connect  timeout                            = deferral session network
        connect  unreachable                        = deferral session network
        connect  reset@au                           = deferral source throttle
        mail     reset@au                           = deferral source throttle
        dot      reset@au                           = deferral source throttle duplicate
        greeting protocol                           = deferral session protocol
        rcpt     550 unknown user@docomo            = bounce recipient mailbox-unknown
        dot      550 unknown user@docomo            = bounce message recipient-filter
        rcpt     550 <x@au.com>: User unknown@au    = bounce recipient mailbox-unknown
        rcpt     550 : User unknown@au              = bounce recipient recipient-filter
        mail     554 Transaction failed@docomo      = deferral session too-many-recipients
    ";
    let classifier = Classifier::builtin();
    for line in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (input, want) = line.split_once(" = ").unwrap();
        let (at, input) = input.trim().split_once(' ').unwrap();
        let (input, site) = match input.trim().rsplit_once('@') {
            Some((input, site @ ("au" | "docomo"))) => (input, site),
            _ => (input.trim(), ""),
        };
        let said;
        let event = match input {
            "timeout" => Event::Timeout,
            "closed" => Event::Closed,
            "reset" => Event::Reset,
            "refused" => Event::Refused,
            "unreachable" => Event::Unreachable,
            "protocol" => Event::Protocol("line too long"),
            "tls" => Event::TlsFailed("certificate expired"),
            text => {
                said = reply(text);
                Event::Reply(&said)
            }
        };
        let outcome = classifier.classify(
            &Context {
                site,
                ..Context::default()
            },
            phase(at),
            event,
        );
        let duplicate = if outcome.possible_duplicate {
            " duplicate"
        } else {
            ""
        };
        let got = format!(
            "{} {} {}{duplicate}",
            outcome.verdict.as_str(),
            outcome.scope.as_str(),
            outcome.class
        );
        assert_eq!(got, want, "{line}");
    }
}

#[test]
fn dns_defers_what_may_pass_and_bounces_the_rest() {
    let classifier = Classifier::builtin();
    for (failure, verdict, class) in [
        (DnsFailure::Temporary, Verdict::Deferral, Class::DnsTemp),
        (
            DnsFailure::NoSuchDomain,
            Verdict::Bounce,
            Class::DomainUnknown,
        ),
        (DnsFailure::BadName, Verdict::Bounce, Class::DomainUnknown),
        (DnsFailure::NullMx, Verdict::Bounce, Class::DomainNoMail),
        (DnsFailure::NoAddress, Verdict::Bounce, Class::DomainNoMail),
        (DnsFailure::MailLoop, Verdict::Bounce, Class::RouteFailure),
        (DnsFailure::Prohibited, Verdict::Bounce, Class::RouteFailure),
    ] {
        let outcome = classifier.classify(&Context::default(), Phase::Dns, Event::Dns(failure));
        assert_eq!(
            (outcome.verdict, outcome.class),
            (verdict, class),
            "{failure:?}"
        );
    }
}

#[test]
fn a_reply_that_quotes_us_says_nothing_about_the_mailbox() {
    let classifier = Classifier::builtin();
    let context = Context {
        source: Some([192, 0, 2, 1].into()),
        ehlo: "out.sender.test",
        reverse_path: "b@sender.test",
        recipient: "ann@mx.test",
        ..Context::default()
    };
    for (text, class) in [
        ("550 5.1.1 user unknown", Class::MailboxUnknown),
        ("550 5.1.1 192.0.2.1 rejected: user unknown", Class::Policy),
        ("550 5.1.1 out.sender.test: no such user", Class::Policy),
        (
            "550 5.1.1 mail from sender.test: user unknown",
            Class::Policy,
        ),
        // Addresses, and links, are not evidence.
        ("550 <spam@blocked.example> said no", Class::Unknown),
        ("550 see https://mx.test/spam/virus", Class::Unknown),
    ] {
        let reply = reply(text);
        assert_eq!(
            classifier
                .classify(&context, Phase::Rcpt, Event::Reply(&reply))
                .class,
            class,
            "{text}"
        );
    }
}

#[test]
fn signals_and_retries_come_from_the_rules() {
    let classifier = Classifier::builtin();
    let judge = |site, at: &str, text: &str| {
        let reply = reply(text);
        classifier.classify(
            &Context {
                site,
                ..Context::default()
            },
            phase(at),
            Event::Reply(&reply),
        )
    };
    let google = judge(
        "google",
        "dot",
        "421 4.7.28 unusual rate of unsolicited mail originating from your IP Netblock",
    );
    let signal = google.signal.unwrap();
    assert_eq!(
        (google.scope, signal.applies_to, signal.pause),
        (Scope::Site, Scope::Site, false)
    );
    assert_eq!(
        signal.rate,
        Some(crate::outcome::RateCap {
            messages: 10,
            per: Duration::from_secs(60)
        })
    );
    assert_eq!(signal.duration, Duration::from_secs(1800));

    let yahoo = judge("yahoo", "greeting", "421 4.7.0 [TSS04] deferred")
        .signal
        .unwrap();
    assert!(yahoo.pause && yahoo.applies_to == Scope::Source);
    assert_eq!(
        (yahoo.trigger.hits, yahoo.trigger.within),
        (2, Duration::from_secs(3600))
    );

    let full = judge("yahoo", "mail", "421 Max message per connection reached");
    assert_eq!(
        (full.scope, full.retry_after),
        (Scope::Session, Some(Duration::ZERO))
    );
    assert!(full.signal.unwrap().session_full);

    // A throttle without a rule's signal still asks for the ordinary step down.
    assert_eq!(
        judge("", "mail", "451 4.4.5 congestion").signal,
        Some(ThrottleSignal::step_down(Scope::Source))
    );
    assert_eq!(
        judge("", "rcpt", "451 greylisted").retry_after,
        Some(Duration::from_secs(300))
    );
    assert_eq!(
        judge("", "rcpt", "450 4.2.1 slow").retry_after,
        Some(Duration::from_secs(3600))
    );
    // Refused for good: a hint would mean nothing.
    assert_eq!(
        judge("google", "rcpt", "550 5.2.1 receiving mail too quickly").retry_after,
        None
    );
    assert_eq!(judge("", "rcpt", "550 5.1.1 no").signal, None);
}

fn events() -> impl Strategy<Value = (Option<Reply>, u8)> {
    let words = prop::sample::select(vec![
        "user unknown",
        "spam",
        "blocked using",
        "too many",
        "@",
        "://",
        "rate limit",
        "mailbox full",
        "[TS03] permanently deferred",
        "é",
        "",
        "421",
    ]);
    let text = prop::collection::vec(words, 0..6).prop_map(|words| words.join(" "));
    let enhanced = prop::option::of((2u8..6, 0u16..9, 0u16..40));
    let reply = (200u16..600, enhanced, prop_oneof![text, any::<String>()]).prop_map(
        |(code, enhanced, text)| Reply {
            code,
            enhanced: enhanced
                .map(|(class, subject, detail)| EnhancedCode::new(class, subject, detail)),
            text: text.into(),
        },
    );
    (prop::option::weighted(0.8, reply), 0u8..7)
}

proptest! {
    /// The promises of the file, for any reply to any phase at any site.
    #[test]
    fn promises_hold(
        site in prop::sample::select(vec!["", "google", "yahoo", "outlook", "apple", "docomo", "au", "qq"]),
        at in prop::sample::select(Phase::ALL.to_vec()),
        (said, which) in events(),
    ) {
        let event = match (&said, which) {
            (Some(reply), _) => Event::Reply(reply),
            (None, 0) => Event::Timeout,
            (None, 1) => Event::Closed,
            (None, 2) => Event::Reset,
            (None, 3) => Event::Protocol("x"),
            (None, 4) => Event::TlsFailed("x"),
            (None, 5) => Event::Refused,
            (None, _) => Event::Unreachable,
        };
        let classifier = shared();
        let outcome = classifier.classify(&Context { site, ..Context::default() }, at, event);
        let delivered = at == Phase::Dot && said.as_ref().is_some_and(Reply::is_positive);
        prop_assert_eq!(outcome.verdict == Verdict::Delivered, delivered);
        prop_assert_eq!(outcome.class == Class::Delivered, delivered);
        let refused = said.as_ref().is_some_and(|reply| reply.code >= 400);
        prop_assert_eq!(outcome.possible_duplicate, at == Phase::Dot && !delivered && !refused);
        if at.is_before_mail() || said.as_ref().is_none_or(|reply| reply.code == 421) {
            prop_assert_eq!(outcome.verdict, Verdict::Deferral);
            prop_assert!(outcome.scope >= Scope::Session);
        }
        if at < Phase::Rcpt {
            prop_assert!(!outcome.class.is_about_mailbox());
        }
        if outcome.verdict == Verdict::Bounce {
            prop_assert!(outcome.retry_after.is_none() || outcome.rule.is_some());
            prop_assert!(said.as_ref().is_some_and(Reply::is_permanent), "no rule of ours bounces on 4xx");
        }
    }
}

fn shared() -> &'static Classifier {
    static CLASSIFIER: std::sync::OnceLock<Classifier> = std::sync::OnceLock::new();
    CLASSIFIER.get_or_init(Classifier::builtin)
}
