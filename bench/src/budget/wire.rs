//! The sockets of a message, without an engine behind them: what the executor and the kernel take to
//! move the same bytes in the same writes and reads, on as many connections, to the same sink.
//!
//! One executor on the core that the first shard has, a task for each connection, plain `write_all`
//! and `read` of the engine's own sockets. Contents are made beforehand and replies only counted. How
//! many sockets are ready at once, and how often the sink sleeps and takes the core away, depends on
//! what the shard does between two calls and on who else wants a processor; so as much time is spent
//! there on hashing, some of it in memory that no cache has, and taken out of the result again, and
//! stand-ins take what the engine's other threads take (`beside.rs`). What is left is the sockets'
//! share: the calls, the ring between them, waking tasks and the receiver, switches. The sink is a process of its own, as in `hikyaku-bench load`.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::hint::black_box;
use std::net::SocketAddr;
use std::rc::Rc;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::{LocalExecutorBuilder, Placement};
use hikyaku::io::readiness::{Readiness, Tcp};
use socket2::{Domain, Socket, Type};
use xxhash_rust::xxh3::xxh3_64;

use super::beside::{Beside, Standing};
use super::turn::Pipeline;
use crate::cpu;
use crate::workload::Workload;

/// What is sent.
#[derive(Debug, Clone)]
pub struct WireArgs {
    /// The messages; so many as it says are sent.
    pub work: Workload,
    /// How they are grouped.
    pub pipeline: Pipeline,
    /// Connections at once.
    pub connections: u32,
    /// What the shard does with each message meanwhile, microseconds.
    pub shard_us: f64,
    /// The sink.
    pub sink: SocketAddr,
    /// The engine's other threads.
    pub beside: Vec<Beside>,
}

/// What it took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire {
    /// CPU for each message, microseconds.
    pub us_per_message: f64,
    /// CPU for each connection: connect, greeting, EHLO.
    pub us_per_connection: f64,
    /// Writes for each message.
    pub writes: f64,
    /// Reads for each message.
    pub reads: f64,
    /// How often the executor slept for each message, and how often it was put aside.
    pub switches: (f64, f64),
}

/// Envelope and content of messages, again and again.
struct Script {
    messages: Vec<Vec<u8>>,
    /// In flight on a connection.
    depth: u64,
    /// Stands for the memory that the shard comes to anew: contents as they come in, in their batch, and mapped.
    cold: Vec<u8>,
    cold_at: Cell<usize>,
    /// Stands for the rest of the shard's work, in passes over one content.
    passes: u32,
    /// What both take for a message.
    thought_us: f64,
}

impl Script {
    /// The shard's work for one message.
    fn think(&self, at: usize) {
        self.reach();
        for _ in 0..self.passes {
            black_box(xxh3_64(black_box(&self.messages[at])));
        }
    }

    /// The next of the cold memory.
    fn reach(&self) {
        let begin = self.cold_at.get();
        let end = begin + COLD_OF_MESSAGE;
        black_box(xxh3_64(black_box(&self.cold[begin..end])));
        self.cold_at
            .set(if end + COLD_OF_MESSAGE > COLD { 0 } else { end });
    }
}

/// Counts of all connections.
struct Counts {
    left: Cell<u64>,
    begun: Cell<usize>,
    writes: Cell<u64>,
    reads: Cell<u64>,
    standing: Standing,
}

impl Counts {
    /// Takes up to `most` messages: the first one's place, and how many.
    fn take(&self, most: u64) -> (usize, u64) {
        let count = self.left.get().min(most);
        self.left.set(self.left.get() - count);
        self.standing.sent(count);
        let first = self.begun.get();
        self.begun
            .set(first + usize::try_from(count).unwrap_or(usize::MAX));
        (first, count)
    }
}

/// Sends all, once.
///
/// # Errors
/// No executor, or the sink did not answer as a sink does.
pub fn run(args: &WireArgs) -> Result<Wire, Box<dyn Error>> {
    let args = args.clone();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let script = script(&args);
    let thread = std::thread::Builder::new()
        .name("wire".into())
        .spawn(move || {
            LocalExecutorBuilder::new(Placement::Fixed(1 % cores))
                .io_memory(IO_MEMORY)
                .ring_depth(RING_DEPTH)
                .make()
                .map_err(|error| error.to_string())?
                .run(exchange(args, script))
                .map_err(|error| format!("the sink: {error}"))
        })?;
    let wire = thread.join().map_err(|_| "the executor panicked")??;
    Ok(wire)
}

fn script(args: &WireArgs) -> Script {
    let generator = args.work.generator();
    let mut script = Script {
        messages: Vec::new(),
        depth: match args.pipeline {
            Pipeline::Transaction => 1,
            Pipeline::Stream(depth) => depth.into(),
        },
        cold: vec![1; COLD],
        cold_at: Cell::default(),
        passes: 0,
        thought_us: 0.0,
    };
    for number in 0..args.work.messages.min(DISTINCT) {
        let mut content = Vec::new();
        generator.message(number, None, &mut content);
        let mut envelope = b"MAIL FROM:<".to_vec();
        envelope.extend_from_slice(generator.reverse_path());
        envelope.extend_from_slice(format!("> SIZE={}\r\nRCPT TO:<", content.len()).as_bytes());
        generator.recipient(number, 0, &mut envelope);
        envelope.extend_from_slice(b">\r\n");
        let bdat = format!("BDAT {} LAST\r\n", content.len());
        envelope.extend_from_slice(bdat.as_bytes());
        envelope.extend_from_slice(&content);
        script.messages.push(envelope);
    }
    if let Some(first) = script.messages.first() {
        let cold_us = cpu::us_per_call(|| script.reach());
        let pass_us = cpu::us_per_call(|| xxh3_64(black_box(first))).max(0.01);
        let passes = ((args.shard_us - cold_us) / pass_us).round();
        script.passes = passes.clamp(0.0, 1e6) as u32;
        script.thought_us = cold_us + f64::from(script.passes) * pass_us;
        // What goes out is put together here, which is a session's work, too.
        let mut output = Vec::new();
        script.thought_us += cpu::us_per_call(|| {
            output.clear();
            output.extend_from_slice(black_box(first));
        });
    }
    script
}

async fn exchange(args: WireArgs, script: Script) -> std::io::Result<Wire> {
    let script = Rc::new(script);
    let counts = Rc::new(Counts {
        left: Cell::default(),
        begun: Cell::default(),
        writes: Cell::default(),
        reads: Cell::default(),
        standing: Standing::start(&args.beside)?,
    });
    let begun = cpu::thread();
    let readiness = Readiness::new()?;
    glommio::spawn_local(Rc::clone(&readiness).serve()).detach();
    let opening: Vec<_> = (0..args.connections)
        .map(|_| glommio::spawn_local(open(Rc::clone(&readiness), args.sink)))
        .collect();
    let mut streams = Vec::new();
    for task in opening {
        streams.push(task.await?);
    }
    let connected = cpu::thread();
    // Twice: what is slow the first time (buffers, routes, the sink's tables) is not a message's cost.
    let mut figures = Wire::default();
    for messages in [args.work.messages / 5, args.work.messages] {
        counts.left.set(messages);
        counts.writes.set(0);
        counts.reads.set(0);
        let (begun, switched) = (cpu::thread(), switches());
        let tasks: Vec<_> = streams
            .drain(..)
            .map(|stream| {
                glommio::spawn_local(talk(stream, Rc::clone(&script), Rc::clone(&counts)))
            })
            .collect();
        for task in tasks {
            streams.push(task.await?);
        }
        let each = 1.0 / messages.max(1) as f64;
        figures.us_per_message =
            (cpu::us(cpu::thread() - begun) * each - script.thought_us).max(0.0);
        figures.writes = counts.writes.get() as f64 * each;
        figures.reads = counts.reads.get() as f64 * each;
        let now = switches();
        figures.switches = (
            now.0.saturating_sub(switched.0) as f64 * each,
            now.1.saturating_sub(switched.1) as f64 * each,
        );
    }
    figures.us_per_connection = cpu::us(connected - begun) / f64::from(args.connections.max(1));
    for mut stream in streams {
        stream.write_all(b"QUIT\r\n").await?;
    }
    Ok(figures)
}

/// Voluntary and involuntary context switches of this thread.
fn switches() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let of = |name| crate::process::value(&text, name).unwrap_or(0);
    (
        of("voluntary_ctxt_switches:"),
        of("nonvoluntary_ctxt_switches:"),
    )
}

async fn open(readiness: Rc<Readiness>, sink: SocketAddr) -> std::io::Result<Tcp> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.set_nodelay(true)?;
    let mut stream = readiness.connect(socket, sink)?;
    poll_fn(|cx| stream.poll_connected(cx)).await?;
    let mut buffer = vec![0; READ];
    read(&mut stream, &mut buffer).await?;
    stream.write_all(b"EHLO out.test\r\n").await?;
    // The last line has a space behind its code.
    let mut text = Vec::new();
    while !text
        .split(|&byte| byte == b'\n')
        .any(|line| line.starts_with(b"250 "))
    {
        let count = read(&mut stream, &mut buffer).await?;
        text.extend_from_slice(&buffer[..count]);
    }
    Ok(stream)
}

/// Sends messages on one connection until none is left.
async fn talk(mut stream: Tcp, script: Rc<Script>, counts: Rc<Counts>) -> std::io::Result<Tcp> {
    let mut buffer = vec![0; READ];
    let mut output = Vec::new();
    let mut lines = 0_u64;
    let mut in_flight = 0_u64;
    loop {
        let (first, count) = counts.take(script.depth - in_flight);
        if count > 0 {
            output.clear();
            for at in (first..).take(usize::try_from(count).unwrap_or(0)) {
                let at = at % script.messages.len();
                script.think(at);
                output.extend_from_slice(&script.messages[at]);
            }
            write(&mut stream, &output, &counts).await?;
            in_flight += count;
        } else if in_flight == 0 {
            return Ok(stream);
        }
        lines += replies(&mut stream, &mut buffer, &counts).await?;
        in_flight = in_flight.saturating_sub(lines / 3);
        lines %= 3;
    }
}

async fn write(stream: &mut Tcp, bytes: &[u8], counts: &Counts) -> std::io::Result<()> {
    counts.writes.set(counts.writes.get() + 1);
    stream.write_all(bytes).await
}

/// Reads what there is; how many lines it has.
async fn replies(stream: &mut Tcp, buffer: &mut [u8], counts: &Counts) -> std::io::Result<u64> {
    counts.reads.set(counts.reads.get() + 1);
    let count = read(stream, buffer).await?;
    if !buffer.starts_with(b"2") && !buffer.starts_with(b"3") {
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        return Err(std::io::Error::other(text));
    }
    Ok(buffer[..count].iter().filter(|&&c| c == b'\n').count() as u64)
}

async fn read(stream: &mut Tcp, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stream.read(buffer).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// As the engine's executor.
const IO_MEMORY: usize = 64 << 10;
const RING_DEPTH: usize = 512;
const READ: usize = 2048;
/// More than the caches hold.
const COLD: usize = 64 << 20;
/// Of a message of 4 KiB.
const COLD_OF_MESSAGE: usize = 3 * 4096;
/// Contents that are made; more would only take memory.
const DISTINCT: u64 = 512;
#[cfg(test)]
mod tests {
    use hikyaku::sink::{Sink, SinkConfig};

    use super::*;

    #[test]
    fn the_sink_takes_all_in_both_forms() {
        if hikyaku::io::executor::probe().is_err() {
            eprintln!("skipped: this process may not use io_uring");
            return;
        }
        for pipeline in [Pipeline::Transaction, Pipeline::Stream(4)] {
            let config = SinkConfig::default();
            let sink = Sink::bind(&config).unwrap().spawn().unwrap();
            let wire = run(&WireArgs {
                work: Workload {
                    messages: 50,
                    ..Workload::canonical(1)
                },
                pipeline,
                connections: 3,
                shard_us: 2.0,
                sink: sink.addresses()[0],
                beside: vec![],
            })
            .unwrap();
            assert!(wire.us_per_message > 0.0 && wire.us_per_connection > 0.0);
            let (least, most) = match pipeline {
                Pipeline::Transaction => (1.0, 1.0),
                Pipeline::Stream(_) => (0.2, 1.0),
            };
            assert!((least..=most).contains(&wire.writes), "{}", wire.writes);
            assert_eq!(sink.stop().unwrap().counters.messages, 60);
        }
    }
}
