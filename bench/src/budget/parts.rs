//! Each part of the shard's work alone, microseconds of CPU per message: the same functions that the
//! criterion benches call, with the workload's sizes.
//!
//! Alone means warm: code and tables stay in the first caches, so the parts add up to less than the
//! shard that does all of them in turn. The table shows both.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use hikyaku::handoff::{Doorbell, Ring};
use hikyaku::ingest::Format;
use hikyaku::io::clock;
use hikyaku::mail::reply::{EnhancedCode, Reply};
use hikyaku::outcome::{Classifier, Context, Event, Phase};
use hikyaku::smtp::parse::{Keep, ReplyParser};
use hikyaku::throttle::{Path as EgressPath, Registry};
use hikyaku::time::Instant;
use hikyaku_tuning::{Limits, Profiles, Rate};

use super::dialogue::Dialogue;
use super::lines::Lines;
use super::queue::Ready;
use super::spool::{Bed, GROUP};
use super::turn::Pipeline;
use super::{parse, peer};
use crate::cpu;
use crate::workload::Workload;

/// Parsing a batch drop file that lies in memory.
#[must_use]
pub fn parse_us(work: &Workload) -> f64 {
    let messages = work.messages.min(1000);
    let file = parse::file(&work.generator(), 0..messages);
    let chunks = parse::chunks(&file, parse::CHUNK_BYTES);
    let mut out = Vec::new();
    cpu::us_per_call(|| parse::parse(Format::Bsmtp, &chunks, &mut out)) / messages as f64
}

/// A command through a ring and back out, shared by the messages in it.
#[must_use]
pub fn hand_over_us(work: &Workload) -> f64 {
    let ring = Ring::new(256, Doorbell::new(|| {}));
    let per_command = ((256 << 10) / work.size.max(1)).max(1);
    cpu::us_per_call(|| {
        let _ = ring.push(black_box([0_u64; 8]));
        ring.pop()
    }) / per_command as f64
}

/// The spool's shares of the shard's work: append, batches, read and mark.
///
/// # Errors
/// The disk's.
pub fn spool_us(work: &Workload, base: &Path) -> Result<[f64; 3], Box<dyn Error>> {
    let mut bed = Bed::new(base, work.size)?;
    let mut least = [f64::MAX; 3];
    for _ in 0..9 {
        let mut sample = [0.0; 3];
        for _ in 0..CYCLES {
            let cycle = bed.cycle()?;
            for (sum, part) in sample
                .iter_mut()
                .zip([cycle.append, cycle.batch, cycle.mark])
            {
                *sum += cpu::us(part) / (CYCLES * GROUP) as f64;
            }
        }
        for (least, part) in least.iter_mut().zip(sample) {
            *least = least.min(part);
        }
    }
    Ok(least)
}

/// Both clocks, once.
#[must_use]
pub fn clocks_us() -> f64 {
    cpu::us_per_call(|| (clock::now(), clock::wall()))
}

/// An in-doubt slot: claimed, told of the end and of the reply, freed.
///
/// # Errors
/// The disk's.
pub fn slot_us(base: &Path) -> Result<f64, Box<dyn Error>> {
    let mut bed = Bed::new(base, 1)?;
    Ok(cpu::us_per_call(|| bed.slot()))
}

/// Into the ready list and out of it.
#[must_use]
pub fn enqueue_us(work: &Workload) -> f64 {
    let mut ready = Ready::new(work);
    cpu::us_per_call(|| ready.step())
}

/// An egress path with these rates.
///
/// # Panics
/// One is not a rate.
#[must_use]
pub fn path(rate: &str, connection_rate: &str) -> Arc<EgressPath> {
    let mut limits: Limits = *Profiles::builtin().default_limits();
    limits.rate = Rate::parse(rate).expect("a rate");
    limits.connection_rate = Rate::parse(connection_rate).expect("a rate");
    Registry::new().path(Instant::default(), "source", "site", &limits)
}

/// The gate of an egress path without a rate.
#[must_use]
pub fn limit_us() -> f64 {
    let path = path("unlimited", "unlimited");
    let mut nanos = 0;
    cpu::us_per_call(|| {
        nanos += 2_000;
        black_box(&path)
            .try_message(Instant::from_nanos(nanos))
            .is_ok()
    })
}

/// The session: envelope, copy of the content, replies.
#[must_use]
pub fn session_us(work: &Workload, pipeline: Pipeline) -> f64 {
    let mut content = Vec::new();
    work.generator().message(0, None, &mut content);
    let mut dialogue = match pipeline {
        Pipeline::Transaction => Dialogue::group(content),
        Pipeline::Stream(depth) => Dialogue::stream(content, depth),
    };
    let depth = f64::from(dialogue.depth());
    cpu::us_per_call(|| dialogue.messages()) / depth
}

/// The replies of one message, of the session's share.
#[must_use]
pub fn replies_us(pipeline: Pipeline) -> f64 {
    let (replies, count) = match pipeline {
        Pipeline::Transaction => ([peer::MAIL, peer::RCPT, peer::TAKEN].concat(), 3),
        // RSET's.
        Pipeline::Stream(_) => ([peer::OK, peer::MAIL, peer::RCPT, peer::TAKEN].concat(), 4),
    };
    let mut parser = ReplyParser::default();
    cpu::us_per_call(|| {
        let mut input = black_box(&replies[..]);
        for _ in 0..count {
            let reply = parser.parse(&mut input, Keep::Refusals);
            let _ = black_box(reply);
        }
    })
}

/// Whose replies are judged, at a site.
#[must_use]
pub fn context(site: &str) -> Context<'_> {
    Context {
        site,
        source: Some([198, 51, 100, 7].into()),
        ehlo: "out7.news.shop.example",
        reverse_path: "bounce+c29tZXRva2Vu@news.shop.example",
        recipient: "hanako.yamada@mail.receiver.example",
    }
}

/// A reply.
#[must_use]
pub fn reply(code: u16, enhanced: (u8, u16, u16), text: &str) -> Reply {
    Reply {
        code,
        enhanced: Some(EnhancedCode::new(enhanced.0, enhanced.1, enhanced.2)),
        text: text.into(),
    }
}

/// The reply that every message should have.
#[must_use]
pub fn delivered() -> Reply {
    reply(
        250,
        (2, 0, 0),
        "OK 1795290318 d2e1a72fcca58-7b12345 - gsmtp",
    )
}

/// The verdict on a delivery.
#[must_use]
pub fn verdict_us() -> f64 {
    let classifier = Classifier::builtin();
    let (context, reply) = (context("google"), delivered());
    cpu::us_per_call(|| {
        classifier.classify(
            black_box(&context),
            Phase::Dot,
            Event::Reply(black_box(&reply)),
        )
    })
}

/// A log line.
#[must_use]
pub fn line_us() -> f64 {
    let mut lines = Lines::default();
    cpu::us_per_call(|| lines.step())
}

/// Groups in a sample of the spool.
const CYCLES: usize = 40;
