//! Who sends, by message and settings, and the questions about it carried to DNS: what all checks that ask
//! DNS have in common.

use std::time::Duration;

use crate::io::clock::now;
use crate::io::records::RecordResolver;
use crate::io::resolver::servers_from_resolv_conf;
use crate::preflight::dns::{DnsCheck, Identities, OwnKey, SignedBy, SourceId};
use crate::preflight::message::{Facts, Mailbox};
use crate::settings::{Ehlo, Settings};
use crate::signing::Signer;

/// Time for all questions of a check.
const DNS_TIME: Duration = Duration::from_secs(60);

/// Asks what `check` wants to know, for at most a minute; what nobody answered by then has failed. Asks the
/// resolvers of the settings, else those of this machine.
pub(crate) fn settle(check: &mut DnsCheck, settings: Option<&Settings>) {
    let resolver = RecordResolver::new(servers(settings));
    let until = now().after(DNS_TIME);
    loop {
        let questions = check.questions();
        if questions.is_empty() {
            return;
        }
        let answers = resolver.ask(&questions, until);
        for (question, records) in questions.into_iter().zip(answers) {
            check.answer(question, records);
        }
    }
}

fn servers(settings: Option<&Settings>) -> Vec<std::net::SocketAddr> {
    match settings {
        Some(settings) if !settings.resolvers.is_empty() => settings.resolvers.clone(),
        // A file that is not there names nobody: then it is this machine.
        _ => servers_from_resolv_conf(
            &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        ),
    }
}

/// The addresses given, with the names that the settings have for them, else those of the settings.
pub(crate) fn sources(given: Vec<SourceId>, settings: Option<&Settings>) -> Vec<SourceId> {
    let known: Vec<SourceId> = settings
        .map(|settings| settings.sources.as_slice())
        .unwrap_or_default()
        .iter()
        .filter(|source| !source.is_unspecified())
        .map(|source| SourceId {
            ip: source.ip,
            helo: match &source.ehlo {
                Ehlo::Name(name) => Some(name.to_ascii_lowercase()),
                Ehlo::AddressLiteral => None,
            },
        })
        .collect();
    if given.is_empty() {
        return known;
    }
    let name = |source: SourceId| {
        let same = known.iter().find(|known| known.ip == source.ip);
        SourceId {
            helo: source
                .helo
                .or_else(|| same.and_then(|known| known.helo.clone())),
            ..source
        }
    };
    given.into_iter().map(name).collect()
}

/// Whom DNS is asked about for a message with these facts. Without a reverse-path that of From is taken.
pub(crate) fn identities(
    facts: &Facts,
    reverse_path: Option<String>,
    signer: &Signer,
    sources: Vec<SourceId>,
) -> Identities {
    let from = facts.from.first();
    let envelope = reverse_path.or_else(|| from.map(|from| from.address.clone()));
    let envelope_mailbox = envelope.unwrap_or_default();
    let own_keys = facts.from_domain.as_deref().map(|domain| {
        let keys = signer.public_keys_for(domain);
        keys.map(|(domain, selector, public)| OwnKey {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            public,
        })
        .collect()
    });
    let signatures = facts.signatures.iter().map(|signature| SignedBy {
        domain: signature.domain.clone(),
        selector: signature.selector.clone(),
        ed25519: signature.ed25519,
    });
    Identities {
        from_domain: facts.from_domain.clone(),
        envelope_domain: domain_of(&envelope_mailbox),
        envelope_mailbox,
        own_keys: own_keys.unwrap_or_default(),
        signatures: signatures.collect(),
        sources,
    }
}

/// The domain of an address, if it is one.
pub(crate) fn domain_of(address: &str) -> Option<String> {
    let mailbox = Mailbox {
        name: String::new(),
        address: address.to_owned(),
    };
    mailbox.domain()
}
