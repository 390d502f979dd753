//! The session's own share of one message: begin, replies, content, the end's reply, as a driver
//! would see it, without a socket and without a spool.
//!
//! A session that does anything but deliver is a bug of the harness or the engine, and panics.

use std::hint::black_box;
use std::mem;
use std::sync::Arc;

use hikyaku::mail::envelope::ContentNeeds;
use hikyaku::smtp::{
    Action, Deadlines, Session, SessionConfig, StreamDepth, TlsPolicy, Transaction,
};
use hikyaku::time::Instant;

use super::peer;

const NOW: Instant = Instant::from_nanos(1);

/// A session that is ready, and what its peer will say to each message.
#[derive(Debug)]
pub struct Dialogue {
    session: Session,
    /// In the reads in which they come.
    replies: Vec<Vec<u8>>,
    content: Vec<u8>,
    needs: ContentNeeds,
    depth: u8,
}

impl Dialogue {
    /// Envelope commands together, then the content: two round trips.
    #[must_use]
    pub fn transaction(content: Vec<u8>) -> Self {
        let together = [peer::MAIL, peer::RCPT, peer::DATA].concat();
        Self::new(peer::EHLO, content, vec![together, peer::TAKEN.to_vec()])
    }

    /// One round trip: a peer with CHUNKING, which has shown that it counts.
    ///
    /// # Panics
    /// The session does not deliver the two with which a peer shows that.
    #[must_use]
    pub fn group(content: Vec<u8>) -> Self {
        let group = [peer::MAIL, peer::RCPT, peer::TAKEN].concat();
        let apart = Self::transaction(Vec::new()).replies;
        let mut dialogue = Self::new(peer::EHLO_CHUNKING, content, vec![group.clone()]);
        assert_eq!(dialogue.messages(), 1);
        dialogue.replies = apart;
        assert_eq!(dialogue.messages(), 1);
        dialogue.replies = vec![group];
        dialogue
    }

    /// The same as [`Self::transaction`] where lines of the content begin with dots, which are doubled.
    #[must_use]
    pub fn with_dot_lines(mut self) -> Self {
        self.needs.dot_lines = true;
        self
    }

    /// A peer without PIPELINING: a round trip for each command.
    #[must_use]
    pub fn apart(content: Vec<u8>) -> Self {
        let replies = [peer::MAIL, peer::RCPT, peer::DATA, peer::TAKEN];
        let replies = replies.into_iter().map(<[u8]>::to_vec).collect();
        Self::new(b"250 mx.test\r\n", content, replies)
    }

    /// `depth` messages (two at least) in flight with CHUNKING, the replies to all in one read.
    ///
    /// # Panics
    /// The session does not deliver the pair with which a peer shows that it can.
    #[must_use]
    pub fn stream(content: Vec<u8>, depth: u8) -> Self {
        let first = [peer::MAIL, peer::RCPT, peer::TAKEN].concat();
        // Behind another that is in flight comes RSET first.
        let further = [peer::OK, &first].concat();
        let all = |count: u8| [&first[..], &further.repeat(usize::from(count) - 1)].concat();
        let depth = depth.max(2);
        let mut dialogue = Self::new(peer::EHLO_CHUNKING, content, vec![all(2)]);
        dialogue.session = dialogue.session.with_stream(StreamDepth::new(depth));
        dialogue.depth = 2;
        assert_eq!(dialogue.messages(), 2);
        dialogue.depth = depth;
        dialogue.replies = vec![all(depth)];
        dialogue
    }

    fn new(ehlo: &[u8], content: Vec<u8>, replies: Vec<Vec<u8>>) -> Self {
        let config = SessionConfig {
            ehlo_name: "out.test".into(),
            tls: TlsPolicy::Never,
            deadlines: Deadlines::default(),
            pipelining: true,
            chunking: true,
            eight_bit_anyway: false,
        };
        let mut session = Session::new(NOW, Arc::new(config));
        for reply in [peer::GREETING, ehlo] {
            session.handle_bytes(NOW, reply);
            drive(&mut session, b"");
        }
        assert!(session.is_ready());
        Self {
            session,
            replies,
            content,
            needs: ContentNeeds::default(),
            depth: 1,
        }
    }

    /// Messages in flight at once: what one call of [`Self::messages`] delivers.
    #[must_use]
    pub const fn depth(&self) -> u8 {
        self.depth
    }

    /// Delivers as many messages as may be in flight; says how many were.
    ///
    /// # Panics
    /// The session is not ready for them.
    pub fn messages(&mut self) -> u32 {
        let streams = self.depth > 1;
        for _ in 0..self.depth {
            self.session
                .begin(
                    NOW,
                    Transaction {
                        reverse_path: "bounce+4711@news.example.net",
                        recipients: [(7, "someone.or.other@example.com")],
                        size: self.content.len() as u64,
                        needs: self.needs,
                        may_group: true,
                    },
                )
                .expect("a ready session");
            if streams {
                self.session.push_body(&self.content, true);
            }
        }
        let mut delivered = drive(&mut self.session, &self.content);
        for reply in &self.replies {
            self.session.handle_bytes(NOW, black_box(reply));
            delivered += drive(&mut self.session, &self.content);
        }
        delivered
    }
}

/// Carries out everything that needs no reply.
fn drive(session: &mut Session, content: &[u8]) -> u32 {
    let mut delivered = 0;
    loop {
        match session.poll() {
            Action::Write => {
                let output = mem::take(session.output());
                black_box(&output);
                *session.output() = output;
                session.handle_written(NOW);
            }
            Action::Body => session.push_body(content, true),
            Action::Recipient { report, .. } => delivered += u32::from(report.is_delivered()),
            Action::Wait { .. } => return delivered,
            Action::Ready => {}
            other => panic!("the peer of a bench does nothing wrong: {other:?}"),
        }
    }
}

/// 4 KiB of lines such as HTML has, with a dot every 30 bytes or so; each begins with `first`.
#[must_use]
pub fn content_of(first: u8) -> Vec<u8> {
    let mut content = Vec::new();
    while content.len() < 4096 {
        content.push(first);
        content.extend(b"p style=\"margin: 0.5em\">See www.example.com, please.</p>\r\n");
    }
    content.truncate(4094);
    content.extend(b"\r\n");
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_delivers_again_and_again() {
        for mut dialogue in [
            Dialogue::transaction(content_of(b'<')),
            Dialogue::transaction(content_of(b'.')).with_dot_lines(),
            Dialogue::apart(content_of(b'<')),
            Dialogue::transaction(Vec::new()),
            Dialogue::group(content_of(b'.')).with_dot_lines(),
            Dialogue::stream(content_of(b'<'), 8),
        ] {
            for _ in 0..3 {
                assert_eq!(dialogue.messages(), u32::from(dialogue.depth()));
            }
        }
    }
}
