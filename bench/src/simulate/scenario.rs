//! What a seed draws before anything happens: how many shards, which peers, which faults, when the process ends.

use std::time::Duration;

use hikyaku::dns::rng::Rng;
use hikyaku::ingest::{Format, write_message_file, write_transaction};
use hikyaku::mail::envelope::Envelope;

use super::dns::{Names, Zone};
use super::ledger::{DropFile, End, Ledger, Recipient};
use super::peer::{Bdat, Persona, SPAM};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// kill -9.
    Kill,
    /// The machine loses power.
    PowerCut,
    /// SIGTERM: the transactions in flight run to their end.
    Drain,
    /// A write or a flush fails: the engine ends itself.
    DiskError,
}

/// One end of the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crash {
    pub(super) ending: Ending,
    pub(super) when: When,
}

/// Counted from the start of the process.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// So much later.
    After(Duration),
    /// At this call on a file, or kill point; a small number falls into recovery.
    Call(u64),
}

/// How rough the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rot {
    /// It keeps what it acknowledged.
    No,
    /// It forgets, misplaces and corrupts: what is lost must be named.
    Yes,
}

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) crashes: Vec<Crash>,
    pub(super) personas: Vec<Persona>,
    pub(super) rot: Rot,
    /// Per mille of DNS answers.
    pub(super) dns_trouble: usize,
    /// When trouble ends.
    pub(super) heal_after: Duration,
    /// Files are dropped within this time.
    pub(super) drops_within: Duration,
    /// A flush takes up to so long.
    pub(super) sync_max: Duration,
    /// Another number of shards at each start.
    pub(super) reshard: bool,
    /// The wall clock jumps by years.
    pub(super) jumps: bool,
    /// For some of the time no space can be allocated.
    pub(super) full: bool,
    /// The end of a message waits until stable storage knows of it: then every duplicate is named, after a power cut, too.
    pub(super) strict: bool,
    /// Transactions in flight where a site has shown that it can.
    pub(super) stream_depth: u8,
    pub(super) stream_auto: Option<u32>,
    /// Hours of all sites: limits as an operator writes them.
    pub(super) hours: Option<String>,
    /// Content as chunks where a site announces it.
    pub(super) chunking: bool,
    pub(super) log_segments_max: u64,
    pub(super) indoubt_slots: u32,
}

pub(super) const SEGMENT: u64 = 128 << 10;

impl Scenario {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let hosts = 2 + rng.below(4);
        let rough = rng.below(4);
        let mut personas: Vec<Persona> = (0..hosts).map(|_| persona(rng, rough)).collect();
        let crashes = (0..rng.below(7)).map(|_| crash(rng)).collect();
        // Came later: drawn aside, so that a seed draws all else as before.
        let mut aside = rng.clone();
        let chunking = aside.below(4) > 0;
        for persona in &mut personas {
            let ways = [Bdat::Unknown, Bdat::Commands, Bdat::Silent];
            if aside.below(8) == 0 {
                persona.bdat = ways[aside.below(3)];
            }
        }
        Self {
            crashes,
            personas,
            rot: if rng.below(8) == 0 { Rot::Yes } else { Rot::No },
            dns_trouble: [0, 50, 300][rng.below(3)],
            heal_after: Duration::from_secs([600, 7200, 36_000][rng.below(3)]),
            drops_within: Duration::from_secs([1, 30, 600][rng.below(3)]),
            sync_max: Duration::from_micros([500, 5_000, 200_000, 30_000_000][rng.below(4)]),
            reshard: rng.below(2) == 0,
            jumps: rng.below(3) == 0,
            full: rng.below(4) == 0,
            strict: rng.below(4) == 0,
            stream_depth: [2, 4, 16][rng.below(3)],
            stream_auto: [None, Some(0), Some(2)][rng.below(3)],
            hours: None,
            chunking,
            log_segments_max: 6 + rng.below(20) as u64,
            indoubt_slots: [4, 16, 64][rng.below(3)],
        }
    }
}

/// Hours of all sites, for some seeds: one to three windows a day, of minutes or hours, by some clock. Every day, so that
/// whoever waits has his turn within one.
pub(super) fn hours(rng: &mut Rng) -> Option<String> {
    if rng.below(4) > 0 {
        return None;
    }
    let clock = |minute: usize| format!("{:02}:{:02}", minute / 60, minute % 60);
    let windows = (0..1 + rng.below(3)).map(|_| {
        let from = rng.below(1440);
        let most = [10, 100, 1000][rng.below(3)];
        let length = 1 + rng.below(most);
        format!("{}-{}", clock(from), clock((from + length) % 1440))
    });
    let windows: Vec<String> = windows.collect();
    let zone = ["UTC", "Asia/Tokyo", "America/St_Johns"][rng.below(3)];
    Some(format!("*=hours={},time-zone={zone}", windows.join(" ")))
}

fn persona(rng: &mut Rng, rough: usize) -> Persona {
    let mut yes = |of: usize| rng.below(of) > 0;
    let (pipelining, chunking, eight_bit) = (yes(3), yes(2), yes(4));
    let (smtputf8, size, starttls) = (yes(2), yes(2), yes(2));
    let mut rate = |rates: [usize; 4]| if rough == 0 { 0 } else { rates[rng.below(4)] };
    Persona {
        pipelining,
        chunking,
        bdat: Bdat::Known,
        eight_bit,
        smtputf8,
        size,
        starttls,
        trouble: rate([0, 5, 30, 120]),
        lost_reply: rate([0, 20, 100, 400]),
        tempfail: rate([0, 20, 100, 300]),
        unreachable: rate([0, 50, 200, 700]),
    }
}

fn crash(rng: &mut Rng) -> Crash {
    let ending = match rng.below(8) {
        0..=2 => Ending::Kill,
        3..=5 => Ending::PowerCut,
        6 => Ending::DiskError,
        _ => Ending::Drain,
    };
    let when = match rng.below(4) {
        0 => When::Call(1 + rng.below(120) as u64),
        1 => When::Call(100 + rng.below(900) as u64),
        2 => When::After(Duration::from_millis(rng.below(2_000) as u64)),
        _ => When::After(Duration::from_millis(rng.below(2_000_000) as u64)),
    };
    Crash { ending, when }
}

/// Domains of all kinds, each with its hosts.
pub(super) fn names(rng: &mut Rng, hosts: usize) -> Names {
    let mut names = Names::default();
    for index in 0..3 + rng.below(5) {
        let first = rng.below(hosts);
        let zone = match rng.below(10) {
            0 => Zone::NullMx,
            1 => Zone::Nobody,
            2 => Zone::Implicit(first),
            _ => Zone::Mx(
                (0..1 + rng.below(3))
                    .map(|next| (first + next) % hosts)
                    .collect(),
            ),
        };
        names.zones.push((format!("d{index}.test"), zone));
    }
    names
}

/// Drop files of both formats, a few of them not valid, and what each recipient must come to.
pub(super) fn files(rng: &mut Rng, names: &Names) -> Ledger {
    let mut ledger = Ledger::default();
    for file in 0..1 + rng.below(8) {
        let format = if rng.below(2) == 0 {
            Format::Eml
        } else {
            Format::Bsmtp
        };
        let valid = rng.below(8) > 0;
        let mut drop = DropFile {
            name: format!("f{file}"),
            format,
            bytes: Vec::new(),
            valid,
            recipients: 0,
            delivered: 0,
            accepted: false,
            ended: None,
        };
        let messages = if format == Format::Eml {
            1
        } else {
            1 + rng.below(5)
        };
        let mut contents = Vec::new();
        for message in 0..messages {
            let spam = rng.below(12) == 0;
            let content = content(rng, file, message, spam);
            let mut recipients = Vec::new();
            for recipient in 0..1 + rng.below(4) {
                let (domain, zone) = &names.zones[rng.below(names.zones.len())];
                let reject = rng.below(10) == 0;
                let kind = if reject { "reject" } else { "to" };
                let address = format!("{kind}-{file}-{message}-{recipient}@{domain}");
                let taken = !spam && !reject && matches!(zone, Zone::Mx(_) | Zone::Implicit(_));
                let end = if taken { End::Delivered } else { End::Bounced };
                drop.recipients += 1;
                drop.delivered += u64::from(taken);
                ledger
                    .recipients
                    .insert(address.clone(), Recipient::new(file, message, end));
                recipients.push(address.into_boxed_str());
            }
            let envelope = Envelope {
                reverse_path: "news@out.test".into(),
                recipients,
                ..Envelope::default()
            };
            match format {
                Format::Eml => write_message_file(&mut drop.bytes, &envelope, &content),
                Format::Bsmtp => write_transaction(&mut drop.bytes, &envelope, &content),
            }
            contents.push(content);
        }
        if !valid {
            spoil(rng, &mut drop);
        }
        ledger.files.push(drop);
        ledger.contents.push(contents);
    }
    ledger
}

/// Makes a file one that must be refused, as late in it as can be.
fn spoil(rng: &mut Rng, drop: &mut DropFile) {
    match (drop.format, rng.below(2)) {
        (Format::Bsmtp, 0) => drop
            .bytes
            .extend_from_slice(b"MAIL FROM:<news@out.test>\r\n"),
        (Format::Bsmtp, _) => drop.bytes.extend_from_slice(b"NONSENSE\r\n"),
        (Format::Eml, _) => drop.bytes.extend_from_slice(b"a line with a NUL: \0\r\n"),
    }
}

fn content(rng: &mut Rng, file: usize, message: usize, spam: bool) -> Vec<u8> {
    let mut content = format!(
        "From: News <news@out.test>\r\nSubject: {file}/{message}\r\nMessage-ID: <{file}.{message}@out.test>\r\n"
    )
    .into_bytes();
    if spam {
        content.extend_from_slice(SPAM);
        content.extend_from_slice(b"\r\n");
    }
    content.extend_from_slice(b"\r\n");
    let lines = match rng.below(8) {
        0 => 0,
        1 => 300 + rng.below(200),
        _ => rng.below(20),
    };
    let texts: [&[u8]; 4] = [
        b"a line of text\r\n",
        b".\r\n",
        b".. two dots, and then some more text behind them\r\n",
        b"\r\n",
    ];
    for _ in 0..lines {
        content.extend_from_slice(texts[rng.below(texts.len())]);
    }
    content
}
