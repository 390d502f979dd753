//! What a context switch costs whoever causes it: waking a receiver that sleeps, sleeping, being put aside.
//!
//! A stage that is measured alone has its receiver awake, or asleep as often as it happens to be; in a
//! run others decide how often it sleeps. So the price of one is measured here, and how many there were
//! is counted in the run itself.
//!
//! - Waking: CPU of a `send` on loopback to a reader that sleeps in epoll, less that of the same `send`
//!   to one that does not look at its socket now. On another processor that is an interrupt to it; on
//!   the same one the reader comes first, and the sender is put aside and comes back.
//! - Sleeping: CPU of a read that has to wait for its byte, less that of one that finds it.
//! - Being put aside: two threads of one processor that yield to each other, less the call itself.
//!
//! What a switch costs afterwards, in caches that others have filled meanwhile, is not in it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_setaffinity, sched_yield};

use crate::cpu;

/// CPU of one, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prices {
    /// Waking a receiver on another processor.
    pub wake_other: f64,
    /// Waking one on the sender's own, which then goes first.
    pub wake_same: f64,
    /// Sleeping until woken.
    pub sleep: f64,
    /// Being put aside for somebody else.
    pub put_aside: f64,
}

/// Measures all; the sender has the first shard's processor.
///
/// # Errors
/// No sockets, or no thread.
pub fn prices() -> std::io::Result<Prices> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let own = 1 % cores;
    let other = (own + 1) % cores;
    Ok(Prices {
        wake_other: waking(own, other)?,
        wake_same: waking(own, own)?,
        sleep: sleeping(own, other)?,
        put_aside: aside(own)?,
    })
}

/// Pins this thread. Refused in some containers: the figures are then for wherever it runs.
pub(super) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

/// Median of `what`, microseconds.
fn median(mut what: Vec<Duration>) -> f64 {
    what.sort_unstable();
    what.get(what.len() / 2).map_or(0.0, |time| cpu::us(*time))
}

fn connected() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    Ok((near, far))
}

/// The difference between a reader that sleeps on its socket and one that does not.
fn waking(own: usize, reader: usize) -> std::io::Result<f64> {
    let asleep = sends(own, reader, true)?;
    let away = sends(own, reader, false)?;
    Ok((asleep - away).max(0.0))
}

/// Median CPU of a send. With `on_socket` the reader sleeps in epoll, else on an eventfd that it is
/// told of afterwards.
fn sends(own: usize, reader: usize, on_socket: bool) -> std::io::Result<f64> {
    let (mut near, mut far) = connected()?;
    let (mut warm, mut warmed) = connected()?;
    let told = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let taken = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let watched = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&watched, &far, EventData::new_u64(1), EventFlags::IN)?;
    let reading = {
        let (told, taken, over) = (Arc::clone(&told), Arc::clone(&taken), Arc::clone(&over));
        thread::spawn(move || -> std::io::Result<()> {
            pin(reader);
            let mut bytes = vec![0; MESSAGE];
            let mut events: Vec<epoll::Event> = Vec::with_capacity(4);
            while !over.load(SeqCst) {
                if on_socket {
                    events.clear();
                    epoll::wait(&watched, rustix::buffer::spare_capacity(&mut events), None)?;
                } else {
                    rustix::io::read(&*told, &mut [0; 8])?;
                }
                if over.load(SeqCst) {
                    break;
                }
                far.read_exact(&mut bytes)?;
                taken.fetch_add(1, SeqCst);
            }
            Ok(())
        })
    };
    let sending = {
        let (told, taken, over) = (Arc::clone(&told), Arc::clone(&taken), Arc::clone(&over));
        thread::spawn(move || -> std::io::Result<Vec<Duration>> {
            pin(own);
            let (bytes, mut scratch) = (vec![b'x'; MESSAGE], vec![0; MESSAGE]);
            let mut all = Vec::with_capacity(ROUNDS);
            let end = Instant::now() + TIME;
            for round in 0..ROUNDS as u64 {
                if round > ROUNDS_MIN && Instant::now() > end {
                    break;
                }
                // Whoever was here meanwhile has left nothing of it in the caches: that is not the price.
                for _ in 0..WARM {
                    warm.write_all(&bytes)?;
                    warmed.read_exact(&mut scratch)?;
                }
                let begun = cpu::thread();
                near.write_all(&bytes)?;
                all.push(cpu::thread() - begun);
                if !on_socket {
                    rustix::io::write(&*told, &1_u64.to_ne_bytes())?;
                }
                let limit = Instant::now() + PATIENCE;
                while taken.load(SeqCst) <= round {
                    if Instant::now() > limit {
                        return Err(std::io::Error::other("the reader does not read"));
                    }
                    // On one processor the reader needs it.
                    sched_yield();
                }
                // Back to sleep, which is not seen from here; then the processor may go idle, too.
                thread::sleep(PAUSE);
            }
            over.store(true, SeqCst);
            near.write_all(&bytes)?;
            rustix::io::write(&*told, &1_u64.to_ne_bytes())?;
            Ok(all)
        })
    };
    let all = joined(sending)?;
    joined(reading)?;
    Ok(median(all))
}

/// A read of an eventfd that waits, less one that finds what it wants.
fn sleeping(own: usize, other: usize) -> std::io::Result<f64> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let over = Arc::new(AtomicBool::new(false));
    let ringing = {
        let (bell, over) = (Arc::clone(&bell), Arc::clone(&over));
        thread::spawn(move || -> std::io::Result<()> {
            pin(other);
            while !over.load(SeqCst) {
                thread::sleep(PAUSE);
                rustix::io::write(&*bell, &1_u64.to_ne_bytes())?;
            }
            Ok(())
        })
    };
    let waiting = thread::spawn(move || -> std::io::Result<(Vec<Duration>, Vec<Duration>)> {
        pin(own);
        let (mut asleep, mut at_hand) = (Vec::new(), Vec::new());
        let end = Instant::now() + TIME;
        while asleep.len() < ROUNDS && Instant::now() < end {
            let begun = cpu::thread();
            rustix::io::read(&*bell, &mut [0; 8])?;
            asleep.push(cpu::thread() - begun);
        }
        over.store(true, SeqCst);
        for _ in 0..ROUNDS {
            rustix::io::write(&*bell, &1_u64.to_ne_bytes())?;
            let begun = cpu::thread();
            rustix::io::read(&*bell, &mut [0; 8])?;
            at_hand.push(cpu::thread() - begun);
        }
        Ok((asleep, at_hand))
    });
    let (asleep, at_hand) = joined(waiting)?;
    joined(ringing)?;
    Ok((median(asleep) - median(at_hand)).max(0.0))
}

/// Two threads on one processor give way to each other. On a busy machine one alone gives way to
/// others, too: what the call itself costs is among its quickest.
fn aside(core: usize) -> std::io::Result<f64> {
    let yields = || {
        thread::spawn(move || {
            pin(core);
            let mut all = Vec::with_capacity(YIELDS);
            let end = Instant::now() + TIME;
            while all.len() < YIELDS && Instant::now() < end {
                let begun = cpu::thread();
                sched_yield();
                all.push(cpu::thread() - begun);
            }
            Ok(all)
        })
    };
    let mut alone = joined(yields())?;
    alone.sort_unstable();
    let call = alone
        .get(alone.len() / 20)
        .map_or(0.0, |time| cpu::us(*time));
    let (one, two) = (yields(), yields());
    let mut both = joined(one)?;
    both.extend(joined(two)?);
    Ok((median(both) - call).max(0.0))
}

fn joined<T>(thread: thread::JoinHandle<std::io::Result<T>>) -> std::io::Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("a measuring thread panicked")))
}

/// As a message's content.
const MESSAGE: usize = 4096;
const ROUNDS: usize = 2000;
const WARM: usize = 3;
const YIELDS: usize = 20_000;
/// On a busy machine a round takes as long as others want: so many are enough, and no more in any case.
const ROUNDS_MIN: u64 = 20;
const TIME: Duration = Duration::from_millis(500);
/// Between two of them: as long as a receiver has nothing to do in a run.
const PAUSE: Duration = Duration::from_micros(30);
/// For a reader that somebody else holds up.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_price_is_a_time() {
        let prices = prices().unwrap();
        for price in [
            prices.wake_other,
            prices.wake_same,
            prices.sleep,
            prices.put_aside,
        ] {
            assert!(price.is_finite() && price >= 0.0, "{prices:?}");
        }
        assert!((median([3, 1, 2].map(Duration::from_micros).to_vec()) - 2.0).abs() < 1e-9);
    }
}
