//! Which sites get more than one command or message at a time, and which have shown that they do not
//! cope: those get one message at a time with DATA until the run ends, and the log says why.
//!
//! A breach that names itself counts at once. A connection that breaks in place of the first answer to
//! a BDAT is an accident once; the second within [`FORGIVEN_AFTER`] messages is a breach.

use hikyaku_tuning::Pipeline;

use super::site::SiteIdentity;
use super::{ConnKey, Now, Shard};
use crate::log::record::SiteEvent;
use crate::queue::domain::SiteKey;
use crate::smtp::StreamDepth;

impl Shard {
    /// How many transactions a new session to `site` may keep in flight; `None`: one.
    pub(super) fn stream_depth(&self, site: SiteKey) -> Option<StreamDepth> {
        let site = &self.sites[site.0 as usize];
        let earned = || {
            let delivered_min = self.config.stream_auto?;
            Some(site.delivered >= u64::from(delivered_min))
        };
        let streams = match site.limits.pipeline {
            Pipeline::Stream => true,
            Pipeline::Transaction => earned() == Some(true),
            Pipeline::None => false,
        };
        (streams && !site.plain).then_some(self.config.stream_depth)
    }

    /// Where this connection's peer showed that it does not cope with streaming, or with content as
    /// chunks, its site gets one message at a time with DATA from now on.
    pub(super) fn note_broken(&mut self, now: Now, key: ConnKey) {
        let Some(conn) = self.conns.get(key.index as usize) else {
            return;
        };
        let Some(session) = &conn.session else { return };
        let (site, source) = (conn.site, conn.source);
        let state = &mut self.sites[site.0 as usize];
        if state.plain {
            return;
        }
        let why = match session.stream_broken() {
            Some(why) => why,
            None if session.is_chunk_unanswered() => {
                let identity = SiteIdentity::new(&state.name, &state.hosts, state.port);
                let last = self.unanswered.insert(identity, state.delivered);
                // A site that was forgotten meanwhile begins to count anew.
                if last.is_none_or(|last| state.delivered.saturating_sub(last) >= FORGIVEN_AFTER) {
                    return;
                }
                "connection broke in place of the first answer to BDAT, twice"
            }
            None => return,
        };
        state.plain = true;
        let event = if session.may_stream() {
            SiteEvent::StreamOff
        } else {
            SiteEvent::ChunkingOff
        };
        self.plain_sites
            .insert(SiteIdentity::new(&state.name, &state.hosts, state.port));
        self.log_plain(now, (site, source), event, why);
    }
}

/// Messages that a site has to accept for one broken connection to be forgotten.
const FORGIVEN_AFTER: u64 = 1000;
