//! Who is compared: how each is found on this machine, and how it is started.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::group::Group;
use crate::process::Watched;

/// An engine, or what stands for the limit of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Contender {
    /// This engine, drop files of 1,000 messages
    Hikyaku,
    /// This engine in stream mode, drop files of 1,000 messages
    HikyakuStream,
    /// This engine, a drop file for each message
    HikyakuFiles,
    /// Postfix
    Postfix,
    /// Exim, a delivery process for each message
    Exim,
    /// OpenSMTPD
    Opensmtpd,
    /// Postfix's `smtp-source`, a C client without a queue, straight into the sink
    SmtpSource,
    /// This harness's pipelining client without a queue, straight into the sink
    Client,
}

impl Contender {
    /// As printed.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) const fn is_hikyaku(self) -> bool {
        matches!(
            self,
            Self::Hikyaku | Self::HikyakuStream | Self::HikyakuFiles
        )
    }

    /// The script that runs it, in front of which `common.sh` stands.
    const fn script(self) -> Option<&'static str> {
        match self {
            Self::Postfix => Some(include_str!("../../compare/postfix.sh")),
            Self::Exim => Some(include_str!("../../compare/exim.sh")),
            Self::Opensmtpd => Some(include_str!("../../compare/opensmtpd.sh")),
            _ => None,
        }
    }

    /// Debian's packages, and the program by which an installed one is known.
    const fn packages(self) -> Option<(&'static [&'static str], &'static str)> {
        match self {
            Self::Postfix => Some((&["postfix"], "usr/lib/postfix/sbin/master")),
            Self::Exim => Some((&["exim4-daemon-light", "exim4-base"], "usr/sbin/exim4")),
            Self::Opensmtpd => Some((&["opensmtpd"], "usr/sbin/smtpd")),
            Self::SmtpSource => Some((&["postfix"], "usr/sbin/smtp-source")),
            _ => None,
        }
    }

    /// What must be done before it can take part; `None`: nothing.
    pub(super) fn missing(self, packages: &Path) -> Option<String> {
        let (names, program) = self.packages()?;
        let unpacked = names
            .iter()
            .any(|name| packages.join(name).join(program).exists());
        if unpacked || Path::new("/").join(program).exists() {
            return None;
        }
        let list = names.join(" ");
        let dir = packages.display();
        Some(format!(
            "mkdir -p {dir} && cd {dir} && apt-get download {list} && for p in {list}; do dpkg-deb -x $p\\_*.deb $p; done"
        ))
    }

    /// A program of its packages, unpacked or installed.
    pub(super) fn program(self, packages: &Path) -> Option<PathBuf> {
        let (names, program) = self.packages()?;
        let unpacked = names.iter().map(|name| packages.join(name).join(program));
        unpacked
            .chain([Path::new("/").join(program)])
            .find(|path| path.exists())
    }
}

/// A mail server of another make that listens.
#[derive(Debug)]
pub(super) struct Server {
    /// Killed with the value, and its namespace with it.
    _child: Watched,
    pub(super) address: SocketAddr,
}

/// Starts one and waits until it takes connections.
pub(super) fn start(
    contender: Contender,
    group: &Group,
    dir: &Path,
    packages: &Path,
    sink: SocketAddr,
    connections: u32,
    domains: u32,
) -> io::Result<Server> {
    let script = contender
        .script()
        .ok_or_else(|| io::Error::other("it is no server"))?;
    let file = dir.join("run.sh");
    fs::write(
        &file,
        format!("{}\n{script}", include_str!("../../compare/common.sh")),
    )?;
    let address = free_address()?;
    let output = dir.join("output");
    let mut command = counted(group, "unshare");
    command
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
            "bash",
        ])
        .arg(&file)
        .env("DIR", dir)
        .env("PACKAGES", packages)
        .env("IN", address.port().to_string())
        .env("OUT", sink.port().to_string())
        .env("CONNECTIONS", connections.to_string())
        .env("DOMAINS", domains.to_string())
        .stdin(Stdio::null())
        .stdout(File::create(&output)?)
        .stderr(File::options().append(true).open(&output)?);
    let mut child = Watched::new(command.spawn()?);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return Ok(Server {
                _child: child,
                address,
            });
        }
        let ended = child.wait_until(Instant::now() + Duration::from_millis(50), || false)?;
        if ended.is_some() || Instant::now() >= deadline {
            let said = fs::read_to_string(&output).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            let name = contender.name();
            return Err(io::Error::other(format!(
                "{name} did not start: {}",
                last.join(" | ")
            )));
        }
    }
}

/// A command whose process counts in `group` before it becomes `program`.
pub(super) fn counted(group: &Group, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo 0 >\"$1\" && shift && exec \"$@\"", "sh"])
        .arg(group.procs())
        .arg(program);
    command
}

/// A loopback port that was free a moment ago.
fn free_address() -> io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}
