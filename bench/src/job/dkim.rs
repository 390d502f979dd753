//! Samples: verified by mail-auth and decoded by mail-parser, neither of which the engine's own
//! templates and signatures are made with.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Instant;

use mail_auth::common::cache::NoCache;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use mail_auth::{
    AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt,
};
use mail_parser::MessageParser;

use super::PATIENCE;
use super::check::Faults;
use super::work::{Row, SENDER};

/// One message.
pub(super) struct Sample {
    pub(super) number: u64,
    pub(super) content: Vec<u8>,
}

/// A thread that verifies samples.
pub(super) struct Verifier {
    samples: SyncSender<Sample>,
    outcomes: Receiver<Result<(), String>>,
}

impl Verifier {
    /// `record` is the TXT record of the key.
    pub(super) fn start(record: &str) -> Result<Self, String> {
        let zone = Zone {
            name: format!("bench._domainkey.{SENDER}.").into(),
            record: DomainKey::parse(record.as_bytes())
                .map_err(|error| format!("the key's record: {error}"))?
                .into(),
        };
        let resolver =
            MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default())
                .map_err(|error| format!("no resolver: {error}"))?;
        let (samples, taken) = sync_channel::<Sample>(256);
        let (told, outcomes) = channel();
        thread::spawn(move || {
            for Sample { number, content } in taken {
                let outcome = verify(&resolver, &zone, &content)
                    .map_err(|what| format!("row {number}: {what}"));
                if told.send(outcome).is_err() {
                    return;
                }
            }
        });
        Ok(Self { samples, outcomes })
    }

    pub(super) fn take(&self, sample: Sample) {
        // The sink waits where the verifier does not keep up: none is left out.
        if let Err(TrySendError::Full(sample)) = self.samples.try_send(sample) {
            let _ = self.samples.send(sample);
        }
    }

    /// How many were right.
    pub(super) fn finish(self, faults: &mut Faults) -> u64 {
        drop(self.samples);
        let limit = Instant::now() + PATIENCE;
        let mut right = 0;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            match self.outcomes.recv_timeout(left) {
                Ok(Ok(())) => right += 1,
                Ok(Err(what)) => faults.add(what),
                Err(_) => return right,
            }
        }
    }
}

/// The name server of the sender's domain.
struct Zone {
    name: Box<str>,
    record: Txt,
}

impl ResolverCache<Box<str>, Txt> for Zone {
    fn get<Q: Hash + Eq + ?Sized>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
    {
        (self.name.borrow() == name).then(|| self.record.clone())
    }

    fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

fn verify(resolver: &MessageAuthenticator, zone: &Zone, content: &[u8]) -> Result<(), String> {
    let message = AuthenticatedMessage::parse(content).ok_or("mail-auth reads no message")?;
    let parameters = Parameters {
        params: &message,
        cache_txt: Some(zone),
        cache_mx: None::<&NoCache<_, _>>,
        cache_ptr: None::<&NoCache<_, _>>,
        cache_ipv4: None::<&NoCache<_, _>>,
        cache_ipv6: None::<&NoCache<_, _>>,
    };
    let results = futures_lite::future::block_on(resolver.verify_dkim(parameters));
    match results.as_slice() {
        [one] if *one.result() == DkimResult::Pass => Ok(()),
        [] => Err("no signature".to_owned()),
        several => Err(format!("DKIM: {:?}", several[0].result())),
    }
}

/// Subject, text and HTML say what the row says.
pub(super) fn decoded(content: &[u8], row: &Row) -> Result<(), String> {
    let message = MessageParser::default()
        .parse(content)
        .ok_or("mail-parser reads no message")?;
    let subject = message.subject().unwrap_or_default();
    let wanted = format!("For {} [{}]", row.name, row.code);
    if subject != wanted {
        return Err(format!("subject {subject:?}, not {wanted:?}"));
    }
    let text = message.body_text(0).unwrap_or_default();
    let wanted = format!("Dear {} of {},", row.name, row.city);
    if !text.starts_with(&wanted) {
        return Err(format!("the text does not begin with {wanted:?}"));
    }
    let html = message.body_html(0).unwrap_or_default();
    let escape = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        text.replace('>', "&gt;").replace('"', "&quot;")
    };
    let wanted = format!("<p>Dear {} of {},</p>", escape(row.name), escape(row.city));
    if !html.contains(&wanted) {
        return Err(format!("the HTML part does not say {wanted:?}"));
    }
    Ok(())
}
