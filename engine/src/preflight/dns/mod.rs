//! What DNS says about a sender, as receivers will ask it: SPF, DKIM keys, DMARC, names of addresses.
//!
//! Sans I/O: [`DnsCheck::questions`] says what to ask, [`DnsCheck::answer`] takes what came back; once there
//! are no questions, [`DnsCheck::facts`] has the result. It ends whatever answers come: questions are
//! bounded, and each is asked once. A question that nobody answers is a fact, too: what rests on it is
//! unknown, and never called broken.

mod answers;
pub mod dmarc;
pub mod keys;
mod rules;
pub mod spf;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use answers::QUESTIONS_MAX;
use answers::{Answers, Pending, addresses, data, family, reverse_name, texts};
use dmarc::DmarcFacts;
use keys::{BadSignature, KeyState};
use spf::{Sender, SpfOutcome, SpfResult};

use super::Profile;
use super::finding::Finding;
use crate::dns::wire::{Data, Kind};
use crate::dns::{Question, Records};

/// Whom to ask about.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    /// Domain of From: lower case, A-labels.
    pub from_domain: Option<String>,
    /// Domain of the reverse-path; `None` for `<>` or when unknown.
    pub envelope_domain: Option<String>,
    /// Mailbox of the reverse-path, for macros; the domain alone will do.
    pub envelope_mailbox: String,
    /// Keys that the engine signs with for this From domain.
    pub own_keys: Vec<OwnKey>,
    /// Signatures that the message carries.
    pub signatures: Vec<SignedBy>,
    /// Where it is sent from.
    pub sources: Vec<SourceId>,
}

/// A key of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKey {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// As DNS should have it, before base64.
    pub public: Vec<u8>,
}

/// A signature of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// `a=ed25519-sha256`.
    pub ed25519: bool,
}

/// A source address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceId {
    /// The address that receivers see.
    pub ip: IpAddr,
    /// What EHLO says; `None`: unknown, or an address literal.
    pub helo: Option<String>,
}

/// Whether a name can be asked for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It can.
    Yes,
    /// The name has nothing of the kind.
    No,
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// DNS did not answer.
    Unknown(String),
}

/// What is so about one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// Which.
    pub id: SourceId,
    /// Its names.
    pub names: Vec<String>,
    /// A name of its own that leads back to it.
    pub confirmed: Option<String>,
    /// The names could not be asked for.
    pub names_unknown: Option<String>,
    /// The name of EHLO leads to this address.
    pub helo: Option<Presence>,
    /// SPF of the reverse-path; of the EHLO name for `<>`.
    pub spf: Option<SpfOutcome>,
    /// SPF of the From domain.
    pub spf_from: Option<SpfOutcome>,
}

/// One key that signs, in the engine or in the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// What DNS has.
    pub state: KeyState,
    /// `d=` is aligned with From.
    pub aligned: bool,
    /// `a=ed25519-sha256`, which many receivers do not verify.
    pub ed25519: bool,
}

/// All that was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsFacts {
    /// See [`Identities`].
    pub from_domain: Option<String>,
    /// See [`Identities`].
    pub envelope_domain: Option<String>,
    /// Each source.
    pub sources: Vec<SourceFacts>,
    /// Without a source: whether there is an SPF record at all.
    pub spf_published: Option<Presence>,
    /// The reverse-path's domain is aligned with From; `None`: cannot be said.
    pub spf_aligned: Option<bool>,
    /// Each key.
    pub keys: Vec<KeyFacts>,
    /// DMARC of the From domain.
    pub dmarc: Option<DmarcFacts>,
    /// The From domain has MX or addresses.
    pub from_mail: Option<Presence>,
    /// The reverse-path's domain has MX or addresses.
    pub envelope_mail: Option<Presence>,
    /// Questions that nobody answered.
    pub unanswered: Vec<String>,
}

/// See the module's text.
#[derive(Debug)]
pub struct DnsCheck {
    identities: Identities,
    answers: Answers,
    facts: Option<DnsFacts>,
}

impl DnsCheck {
    /// Nothing is asked yet. Sources beyond the first 100 are left out: their questions would not fit.
    #[must_use]
    pub fn new(mut identities: Identities) -> Self {
        const SOURCES_MAX: usize = 100;
        const KEYS_MAX: usize = 32;
        identities.sources.truncate(SOURCES_MAX);
        identities.signatures.truncate(KEYS_MAX);
        Self {
            identities,
            answers: Answers::default(),
            facts: None,
        }
    }

    /// What has to be asked now; empty: all is known.
    pub fn questions(&mut self) -> Vec<Question> {
        if self.facts.is_none() {
            self.facts = look(&self.identities, &mut self.answers).ok();
            if self.facts.is_none() {
                return self.answers.take_wanted();
            }
        }
        Vec::new()
    }

    /// What came of a question.
    pub fn answer(&mut self, question: Question, records: Records) {
        self.answers.put(question, records);
    }

    /// The result, once [`Self::questions`] was empty.
    #[must_use]
    pub const fn facts(&self) -> Option<&DnsFacts> {
        self.facts.as_ref()
    }

    /// Verifies the signatures that a message carries, with the keys that DNS has. Bytes as they go out.
    #[must_use]
    pub fn verify(&mut self, message: &[u8]) -> Vec<BadSignature> {
        keys::verify(&mut self.answers, message)
    }

    /// The checklist for DNS; nothing before the facts are there.
    #[must_use]
    pub fn examine(&self, profile: &Profile, bad_signatures: Vec<BadSignature>) -> Vec<Finding> {
        match &self.facts {
            Some(facts) => rules::examine(&rules::Subject {
                facts: facts.clone(),
                bulk: profile.bulk,
                will_sign: profile.will_sign,
                bad_signatures,
            }),
            None => Vec::new(),
        }
    }
}

/// Notes whether a part is missing, so that the others can go on.
struct Parts {
    pending: bool,
}

impl Parts {
    fn take<T>(&mut self, part: Result<T, Pending>) -> Option<T> {
        self.pending |= part.is_err();
        part.ok()
    }
}

/// One run over all that is known. Goes on past what is pending, so that questions come in few rounds.
fn look(id: &Identities, answers: &mut Answers) -> Result<DnsFacts, Pending> {
    let mut parts = Parts { pending: false };
    let mut facts = DnsFacts {
        from_domain: id.from_domain.clone(),
        envelope_domain: id.envelope_domain.clone(),
        ..DnsFacts::default()
    };
    for source in &id.sources {
        if let Some(source) = parts.take(look_at_source(id, source, answers)) {
            facts.sources.push(source);
        }
    }
    if id.sources.is_empty()
        && let Some(domain) = id.envelope_domain.as_ref().or(id.from_domain.as_ref())
    {
        facts.spf_published = parts.take(spf_published(answers, domain));
    }
    if let Some(domain) = &id.envelope_domain {
        facts.envelope_mail = parts.take(takes_mail(answers, domain));
    }
    if let Some(domain) = &id.from_domain {
        facts.from_mail = parts.take(takes_mail(answers, domain));
        facts.dmarc = parts.take(dmarc::facts(answers, domain));
        let (organisation, strict_spf, strict_dkim) = match &facts.dmarc {
            Some(dmarc) => {
                let record = dmarc.record.as_ref();
                (
                    dmarc.organisation.clone(),
                    record.is_some_and(|record| record.strict_spf),
                    record.is_some_and(|record| record.strict_dkim),
                )
            }
            None => (domain.clone(), false, false),
        };
        if let Some(envelope) = &id.envelope_domain {
            let aligned = dmarc::aligned(answers, domain, &organisation, envelope, strict_spf);
            facts.spf_aligned = parts.take(aligned);
        }
        let own = id.own_keys.iter();
        let own = own.map(|key| {
            (
                &key.domain,
                &key.selector,
                key.public.len() == 32,
                Some(key),
            )
        });
        let theirs = id.signatures.iter();
        let theirs = theirs.map(|by| (&by.domain, &by.selector, by.ed25519, None));
        for (key_domain, selector, ed25519, own) in own.chain(theirs) {
            let state = parts.take(keys::state(answers, key_domain, selector, own));
            let aligned = parts.take(dmarc::aligned(
                answers,
                domain,
                &organisation,
                key_domain,
                strict_dkim,
            ));
            if let (Some(state), Some(aligned)) = (state, aligned) {
                facts.keys.push(KeyFacts {
                    domain: key_domain.clone(),
                    selector: selector.clone(),
                    state,
                    aligned,
                    ed25519,
                });
            }
        }
    }
    if parts.pending {
        return Err(Pending);
    }
    facts.unanswered = answers.failures();
    Ok(facts)
}

fn look_at_source(
    id: &Identities,
    source: &SourceId,
    answers: &mut Answers,
) -> Result<SourceFacts, Pending> {
    const NAMES_MAX: usize = 10;
    let ip = source.ip.to_canonical();
    let helo = source.helo.as_deref().unwrap_or_default();
    let sender = |mailbox| Sender { ip, mailbox, helo };
    // Each part notes its questions before the first missing one ends this.
    let spf = match &id.envelope_domain {
        Some(domain) => Some(spf::evaluate(answers, sender(&id.envelope_mailbox), domain)),
        // For `<>` receivers take the name of EHLO (RFC 7208 §2.4).
        None if !helo.is_empty() => Some(spf::evaluate(answers, sender(helo), helo)),
        None => None,
    };
    let from = id.from_domain.as_ref();
    let spf_from = from.map(|domain| spf::evaluate(answers, sender(domain), domain));
    let helo_state = source
        .helo
        .as_deref()
        .map(|name| leads_to(answers, name, ip));
    let records = answers.get(&reverse_name(ip), Kind::Ptr)?;
    let mut names = Vec::new();
    let mut checks = Vec::new();
    for record in data(&records).iter().take(NAMES_MAX) {
        if let Data::Ptr(name) = record {
            names.push(name.clone());
            checks.push(leads_to(answers, name, ip));
        }
    }
    let mut confirmed = None;
    let mut names_unknown = match &*records {
        Records::Failed(why) => Some(why.clone()),
        _ => None,
    };
    for (name, check) in names.iter().zip(checks) {
        match check? {
            Presence::Yes => {
                confirmed.get_or_insert_with(|| name.clone());
            }
            Presence::Unknown(why) => {
                names_unknown.get_or_insert(why);
            }
            Presence::No | Presence::NullMx => {}
        }
    }
    Ok(SourceFacts {
        id: source.clone(),
        names,
        confirmed,
        names_unknown,
        helo: helo_state.transpose()?,
        spf: spf.transpose()?,
        spf_from: spf_from.transpose()?,
    })
}

/// Whether one of the addresses of `name` is `ip`.
fn leads_to(answers: &mut Answers, name: &str, ip: IpAddr) -> Result<Presence, Pending> {
    let records = answers.get(name, family(ip))?;
    Ok(match &*records {
        Records::Failed(why) => Presence::Unknown(why.clone()),
        found if addresses(found).any(|address| address == ip) => Presence::Yes,
        _ => Presence::No,
    })
}

/// Whether mail for a domain would find a host: MX, or addresses of its own (RFC 5321 §5.1).
fn takes_mail(answers: &mut Answers, domain: &str) -> Result<Presence, Pending> {
    let [mx, a, aaaa] = [Kind::Mx, Kind::A, Kind::Aaaa].map(|kind| answers.get(domain, kind));
    let (mx, a, aaaa) = (mx?, a?, aaaa?);
    let mut hosts = data(&mx).iter().filter_map(|data| match data {
        Data::Mx(_, host) => Some(host.as_deref()),
        _ => None,
    });
    if let Some(first) = hosts.next() {
        let all_null = first == Some("") && hosts.all(|host| host == Some(""));
        return Ok(if all_null {
            Presence::NullMx
        } else {
            Presence::Yes
        });
    }
    if addresses(&a).chain(addresses(&aaaa)).next().is_some() {
        return Ok(Presence::Yes);
    }
    for records in [mx, a, aaaa] {
        if let Records::Failed(why) = &*records {
            return Ok(Presence::Unknown(why.clone()));
        }
    }
    Ok(Presence::No)
}

fn spf_published(answers: &mut Answers, domain: &str) -> Result<Presence, Pending> {
    let records = answers.get(domain, Kind::Txt)?;
    Ok(match &*records {
        Records::Failed(why) => Presence::Unknown(why.clone()),
        found if texts(found).any(spf::is_spf) => Presence::Yes,
        _ => Presence::No,
    })
}

impl SourceFacts {
    /// SPF passes, as far as it can be said.
    #[must_use]
    pub fn passes(&self) -> bool {
        let result = self.spf.as_ref().map(|spf| spf.result);
        result == Some(SpfResult::Pass)
    }
}
