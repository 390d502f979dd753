//! The log's part: one line per attempt, and the thread that appends lines to the file.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use hikyaku::io::logfile::LogFile;
use hikyaku::log::record::{AttemptKind, AttemptRecord, LineWriter, SessionTls, Timings};
use hikyaku::mail::id::{MessageId, RecipientId, ShardId, SubmissionId};
use hikyaku::mail::reply::EnhancedCode;
use hikyaku::time::WallTime;

use crate::cpu;

/// A delivery as a bulk job makes it. `number` moves the clock by 20 µs, as at 50,000 lines a second.
#[must_use]
pub fn record(number: u64) -> AttemptRecord<'static> {
    AttemptRecord {
        kind: AttemptKind::Delivered,
        time: WallTime::from_unix_millis(1_795_290_318_042 + number / 50),
        recipient_id: RecipientId {
            message: MessageId {
                log: 2,
                seq: number,
            },
            index: 0,
        },
        submission: Some(SubmissionId(0x9f1c_22e0_8d1b_4a77_90ab_cdef_0123_4567)),
        file: Some(b"spring-sale-2026-11-21.eml"),
        job: Some(b"spring-sale"),
        variant: None,
        row: None,
        envid: None,
        reverse_path: b"bounce+c29tZXRva2Vu@news.shop.example",
        recipient: b"hanako.yamada@mail.receiver.example",
        domain: b"mail.receiver.example",
        site: "receiver",
        mx: Some(b"mx1.mail.receiver.example"),
        address: "192.0.2.9:25".parse().ok(),
        source: Some([198, 51, 100, 7].into()),
        ehlo: Some("out7.news.shop.example"),
        tls: SessionTls::Tls {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
        },
        phase: "dot",
        code: Some(250),
        enhanced: Some(EnhancedCode::new(2, 0, 0)),
        reply: b"OK 1795290318 d2e1a72fcca58-7b1234567890si1234567b3a.123 - gsmtp",
        class: "delivered",
        rule: None,
        attempt: 1,
        next_attempt: None,
        possible_duplicate: false,
        size_bytes: 4096,
        accepted_at: WallTime::from_unix_millis(1_795_290_100_000),
        timings: Timings {
            queued: Some(Duration::from_micros(218_042_123)),
            transaction: Some(Duration::from_micros(31_415)),
            ..Timings::default()
        },
        shard: ShardId(2),
    }
}

/// Lines, one behind another into the same buffer.
#[derive(Debug, Default)]
pub struct Lines {
    writer: LineWriter,
    out: Vec<u8>,
    number: u64,
}

impl Lines {
    /// One more line; its length.
    pub fn step(&mut self) -> usize {
        if self.out.len() > 60_000 {
            self.out.clear();
        }
        self.number += 1;
        let before = self.out.len();
        self.writer
            .attempt(std::hint::black_box(&record(self.number)), &mut self.out);
        self.out.len() - before
    }
}

/// CPU of the log's thread for `bytes` of lines in a file under `base`, microseconds.
///
/// # Errors
/// The file cannot be made, or lines were dropped.
pub fn file_us(base: &Path, bytes: usize) -> Result<f64, Box<dyn Error>> {
    let dir = tempfile::Builder::new()
        .prefix("hikyaku-lines-")
        .tempdir_in(base)?;
    let (all, own) = (cpu::process(), cpu::thread());
    let log = LogFile::open(dir.path(), 1 << 30)?;
    let sender = log.sender();
    let mut line = vec![b'x'; 499];
    line.push(b'\n');
    let mut left = bytes;
    while left > 0 {
        let mut lines = sender.buffer();
        while lines.len() < CHUNK.min(left) {
            lines.extend_from_slice(&line);
        }
        left = left.saturating_sub(lines.len());
        sender.send(lines);
        sender.settle();
    }
    let dropped = log.close();
    let used = (cpu::process() - all).saturating_sub(cpu::thread() - own);
    if dropped > 0 {
        return Err(format!("{dropped} lines were dropped").into());
    }
    Ok(cpu::us(used))
}

/// As a shard ships them.
const CHUNK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_length_and_a_cost() {
        let mut lines = Lines::default();
        assert!((0..1000).all(|_| lines.step() > 300));
        assert!(file_us(&std::env::temp_dir(), 1 << 20).unwrap() > 0.0);
    }
}
