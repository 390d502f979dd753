//! What a job keeps in a spool, for people: its rows, what is the same for all of them, and the message of a row as it
//! would be sent, but for signatures.

use std::io::Write;
use std::path::Path;

use hikyaku_spool::inspect::LogView;
use hikyaku_spool::{LiveMessage, MessageView, SpoolError};
use serde_json::{Map, Value, json};

use crate::io::secret;
use crate::job::Bundle;
use crate::job::chunk::ChunkView;
use crate::job::document::DOCUMENT;
use crate::job::template::Template;
use crate::mail::envelope::{Envelope, EnvelopeView};

use super::export::Problem;
use super::{Failure, shown, time, with_cause};

/// The template of the job that was exported last: chunks of one job follow each other.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    last: Option<(u16, u128, Template)>,
    buffer: Vec<u8>,
}

impl Jobs {
    /// Makes the message of a row: its envelope, and its content into `content`.
    pub(super) fn make(
        &mut self,
        spool: &Path,
        log: &LogView,
        live: &LiveMessage<'_>,
        view: &MessageView<'_>,
        recipient: u32,
        content: &mut Vec<u8>,
    ) -> Result<Envelope, Problem> {
        let damaged = |what: &str| Problem::Message(what.to_owned());
        let stored = EnvelopeView::parse(view.envelope)
            .ok_or_else(|| damaged("its envelope cannot be read"))?;
        let template = self.template(spool, log, live)?;
        let address = stored
            .recipient(recipient)
            .ok_or_else(|| damaged("its envelope is damaged"))?;
        let row = ChunkView::parse(view.content)
            .and_then(|chunk| chunk.row(usize::try_from(recipient).ok()?, address))
            .ok_or_else(|| damaged("its rows cannot be read"))?;
        content.clear();
        template
            .render(row, content)
            .map_err(|error| Problem::Message(error.to_string()))?;
        Ok(Envelope {
            reverse_path: template.reverse_path(row).into(),
            recipients: vec![address.into()],
            job: stored.job.map(Into::into),
            envid: stored.envid.map(Into::into),
            source: stored.source.map(Into::into),
            on_doubt: stored.on_doubt,
            ..Envelope::default()
        })
    }

    fn template(
        &mut self,
        spool: &Path,
        log: &LogView,
        live: &LiveMessage<'_>,
    ) -> Result<&Template, Problem> {
        let failed = |why: String| Problem::Message(why);
        let is_it = |(of, id, _): &(u16, u128, Template)| (*of, *id) == (log.id, live.submission);
        if !self.last.as_ref().is_some_and(is_it) {
            let bundle = bundle(log, live.submission, &mut self.buffer)?;
            let secret = secret::existing(spool).map_err(|error| failed(error.to_string()))?;
            let template =
                Template::compile(&bundle, &secret).map_err(|error| failed(error.to_string()))?;
            self.last = Some((log.id, live.submission, template));
        }
        match &self.last {
            Some((.., template)) => Ok(template),
            None => Err(failed("its job cannot be read".to_owned())),
        }
    }
}

/// What is the same for all messages of the job that came as `submission`.
fn bundle(log: &LogView, submission: u128, buffer: &mut Vec<u8>) -> Result<Bundle, Problem> {
    let failed = |why: &str| Problem::Message(why.to_owned());
    let mut all = log.messages().into_iter().filter_map(|at| log.message(at));
    // Only a bundle has no recipients.
    let found = all
        .find(|one| one.recipients == 0 && one.submission == submission)
        .ok_or_else(|| failed("what its job's messages are made from is not in the spool"))?;
    let view = log.read(found.at, buffer).map_err(|error| match error {
        SpoolError::Moved { .. } => Problem::Moved,
        error => Problem::Message(with_cause(&error)),
    })?;
    Bundle::decode(view.content).ok_or_else(|| failed("its job cannot be read"))
}

/// `hikyaku spool cat` of rows: a JSON object for each, its values by column where the job is there to name them.
pub(super) fn write_rows(
    log: &LogView,
    submission: u128,
    view: &MessageView<'_>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let columns = match bundle(log, submission, &mut Vec::new()) {
        Ok(bundle) => bundle.columns,
        Err(_) => Vec::new(),
    };
    let damaged = || Failure::Damaged("its rows cannot be read");
    let stored = EnvelopeView::parse(view.envelope).ok_or_else(damaged)?;
    let chunk = ChunkView::parse(view.content).ok_or_else(damaged)?;
    for (index, recipient) in (0..chunk.rows()).zip(0..) {
        let address = stored.recipient(recipient).ok_or_else(damaged)?;
        let row = chunk.row(index, address).ok_or_else(damaged)?;
        let named = columns.iter().zip(row.values());
        let named: Map<String, Value> = named
            .map(|(column, value)| (column.to_string(), json!(value)))
            .collect();
        let values = if columns.is_empty() {
            json!(row.values().collect::<Vec<_>>())
        } else {
            json!(named)
        };
        let object = json!({ "recipient_index": recipient, "recipient": address, "row": row.number, "values": values });
        writeln!(out, "{object}")?;
    }
    Ok(())
}

/// `hikyaku spool cat` of a bundle: what it holds, in comments, and its job.toml.
pub(super) fn write_bundle(view: &MessageView<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    let bundle = Bundle::decode(view.content).ok_or(Failure::Damaged("its job cannot be read"))?;
    let accepted = time(bundle.accepted_ms).unwrap_or_default();
    writeln!(out, "# submission {}  accepted {accepted}", bundle.id)?;
    let columns: Vec<String> = bundle.columns.iter().map(|name| shown(name)).collect();
    writeln!(out, "# columns {}", columns.join(", "))?;
    for (name, content) in &bundle.files {
        writeln!(out, "# file {}  bytes {}", shown(name), content.len())?;
    }
    out.write_all(bundle.file(DOCUMENT).unwrap_or_default())?;
    Ok(())
}
