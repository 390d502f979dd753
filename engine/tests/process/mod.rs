//! Runs one program to its end, or kills it when its time is up.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// What a program left.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `command` with `input` on its standard input.
///
/// # Panics
/// When it does not end within `limit`; it is killed first.
pub fn run(command: Command, input: &[u8], limit: Duration) -> Ended {
    run_until(command, input, limit, |_| true)
}

/// The same; `act` is called every few milliseconds until it says that it has acted.
///
/// # Panics
/// As [`run`].
pub fn run_until(
    mut command: Command,
    input: &[u8],
    limit: Duration,
    mut act: impl FnMut(Pid) -> bool,
) -> Ended {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let pid = Pid::from_child(&child);
    let (mut stdin, out, err) = (
        child.stdin.take().unwrap(),
        child.stdout.take().unwrap(),
        child.stderr.take().unwrap(),
    );
    let _ = stdin.write_all(input); // It may have ended before it read all.
    drop(stdin);
    let (out, err) = (reader(out), reader(err));
    let deadline = Instant::now() + limit;
    let mut acted = false;
    let status = loop {
        acted = acted || act(pid);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!(
                "{command:?} did not end in {limit:?}: {} {}",
                out.join().unwrap(),
                err.join().unwrap()
            );
        }
        thread::sleep(Duration::from_millis(5));
    };
    Ended {
        status: status.code(),
        out: out.join().unwrap(),
        err: err.join().unwrap(),
    }
}

/// `hikyaku spool LINE` on the spool in `dir`.
///
/// # Panics
/// As [`run`].
pub fn spool(dir: &Path, line: &str) -> Ended {
    let mut words = line.split_whitespace();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hikyaku"));
    command.arg("spool").args(words.next());
    command.arg("--spool").arg(dir.join("spool"));
    command.args(words).current_dir(dir);
    run(command, b"", Duration::from_secs(60))
}

fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
