//! A server of the test: a child on loopback that never outlives it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running server. Dropped, it gets SIGTERM, and SIGKILL if that does not help.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    output: PathBuf,
}

/// A command that ends with this thread or after `seconds`, whichever is first. `timeout` makes a
/// process group of it and what it starts, and passes signals on to all of them.
pub(crate) fn bounded(program: &str, seconds: u32) -> Command {
    let mut command = Command::new("setpriv");
    let limit = seconds.to_string();
    command.args([
        "--pdeathsig",
        "TERM",
        "timeout",
        "--kill-after=5",
        &limit,
        program,
    ]);
    command.stdin(Stdio::null());
    command
}

/// Runs a short command and answers its standard output; anything but status 0 is a failed test.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{command:?}: {}\n{out}{err}",
        output.status
    );
    out.into_owned()
}

impl Server {
    /// Starts `command`, its output going to the file `output`, and waits until `address` accepts.
    pub(crate) fn start(command: &mut Command, output: &Path, address: SocketAddr) -> Self {
        let file = File::create(output).expect("output file");
        command
            .stdout(file.try_clone().expect("duplicate"))
            .stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut server = Self {
            child,
            output: output.into(),
        };
        let until = Instant::now() + START_MAX;
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            let ended = server.child.try_wait().expect("wait");
            let late = Instant::now() > until;
            assert!(
                ended.is_none() && !late,
                "{command:?} on {address}: {ended:?}\n{}",
                server.output()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// What it printed.
    pub(crate) fn output(&self) -> String {
        std::fs::read(&self.output)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        // `timeout` follows with SIGKILL after five seconds.
        let until = Instant::now() + Duration::from_secs(8);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A port that nobody uses on any address, TCP or UDP. Below the kernel's range for outgoing
/// connections, so that none of those takes it before the server does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 100) as u16 * 100;
    for _ in 0..PORTS {
        let port = base + NEXT.fetch_add(1, Relaxed) % PORTS;
        let any = (Ipv4Addr::UNSPECIFIED, port);
        if TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok() {
            return port;
        }
    }
    panic!("no free port from {base} on");
}

/// Tried from the first one of this process on.
const PORTS: u16 = 1000;
/// Longest start of a server; the machine may be busy.
const START_MAX: Duration = Duration::from_secs(30);
