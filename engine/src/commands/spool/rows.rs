//! Rows of a job, exported: each recipient's message as it would be sent, but for signatures.

use std::path::Path;

use hikyaku_spool::inspect::LogView;
use hikyaku_spool::{LiveMessage, MessageView};

use crate::io::secret;
use crate::job::Bundle;
use crate::job::chunk::ChunkView;
use crate::job::template::Template;
use crate::mail::envelope::{Envelope, EnvelopeView};

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
    ) -> Result<Envelope, String> {
        let stored = EnvelopeView::parse(view.envelope).ok_or("its envelope cannot be read")?;
        let template = self.template(spool, log, live)?;
        let address = stored
            .recipient(recipient)
            .ok_or("its envelope is damaged")?;
        let row = ChunkView::parse(view.content)
            .and_then(|chunk| chunk.row(usize::try_from(recipient).ok()?, address))
            .ok_or("its rows cannot be read")?;
        content.clear();
        template
            .render(row, content)
            .map_err(|error| error.to_string())?;
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
    ) -> Result<&Template, String> {
        let is_it = |(of, id, _): &(u16, u128, Template)| (*of, *id) == (log.id, live.submission);
        if !self.last.as_ref().is_some_and(is_it) {
            let mut all = log.messages().into_iter().filter_map(|at| log.message(at));
            let bundle = all.find(|one| one.recipients == 0 && one.submission == live.submission);
            let at = bundle.ok_or("what its job's messages are made from is not in the spool")?;
            let view = log
                .read(at.at, &mut self.buffer)
                .map_err(|error| error.to_string())?;
            let bundle = Bundle::decode(view.content).ok_or("its job cannot be read")?;
            let secret = secret::existing(spool).map_err(|error| error.to_string())?;
            let template =
                Template::compile(&bundle, &secret).map_err(|error| error.to_string())?;
            self.last = Some((log.id, live.submission, template));
        }
        match &self.last {
            Some((.., template)) => Ok(template),
            None => Err("its job cannot be read".to_owned()),
        }
    }
}
