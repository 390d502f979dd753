//! Samples: verified by mail-auth and decoded by mail-parser, neither of which the engine's own
//! templates and signatures are made with.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Instant;

use hikyaku::signing::{self, PublicKey, Verified};
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
        let key = PublicKey::parse(record.as_bytes())
            .map_err(|error| format!("the key's record: {error}"))?;
        let verifier = signing::Verifier::new().map_err(|error| error.to_string())?;
        let (samples, taken) = sync_channel::<Sample>(256);
        let (told, outcomes) = channel();
        thread::spawn(move || {
            for Sample { number, content } in taken {
                let outcome = verify(&verifier, &key, &content)
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

fn verify(verifier: &signing::Verifier, key: &PublicKey, content: &[u8]) -> Result<(), String> {
    let found = verifier.verify(content, |domain, selector| {
        ((domain, selector) == (SENDER, "bench")).then(|| key.clone())
    });
    match found.as_slice() {
        [] => Err("no signature".to_owned()),
        [Verified { fault: None, .. }] => Ok(()),
        [
            Verified {
                fault: Some(fault), ..
            },
        ] => Err(format!("DKIM: {fault}")),
        several => Err(format!("{} signatures", several.len())),
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
