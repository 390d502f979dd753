//! Postfix's `smtp-sink`: counts, dumps, refuses.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::engine::{files_below, public_dir};
use crate::server::{Server, bounded};

/// A running sink and its dumps.
#[derive(Debug)]
pub(crate) struct SmtpSink {
    _server: Server,
    dumps: PathBuf,
    _dir: TempDir,
}

/// One transaction that was dumped. With a command refused later on, it may lack its end.
#[derive(Debug)]
pub(crate) struct Dump {
    /// As in RCPT, without brackets.
    pub(crate) recipients: Vec<String>,
    /// Header and body, lines ended by LF.
    pub(crate) content: Vec<u8>,
}

impl SmtpSink {
    /// Starts one at `address` with further options.
    pub(crate) fn start(address: SocketAddr, options: &[&str]) -> Self {
        let dir = public_dir();
        let dumps = dir.path().join("dumps");
        fs::create_dir(&dumps).expect("dumps");
        chown(&dumps, Some(NOBODY), None).expect("chown");
        let mut command = bounded("smtp-sink", 240);
        command
            .args(["-u", "nobody", "-d"])
            .arg(dumps.join("d"))
            .args(options);
        command.arg(format!("inet:{address}")).arg("1024");
        let server = Server::start(&mut command, &dir.path().join("output"), address);
        Self {
            _server: server,
            dumps,
            _dir: dir,
        }
    }

    /// All transactions so far.
    pub(crate) fn dumps(&self) -> Vec<Dump> {
        files_below(&self.dumps)
            .iter()
            .map(|path| Dump::parse(&fs::read(path).expect("dump")))
            .collect()
    }
}

impl Dump {
    fn parse(bytes: &[u8]) -> Self {
        let mut recipients = Vec::new();
        let mut rest = bytes;
        // The sink's own fields end with a Received field of three lines.
        let mut received = 0;
        while received < 3 {
            let end = rest
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(rest.len(), |at| at + 1);
            if end == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&rest[..end]);
            rest = &rest[end..];
            if let Some(argument) = line.strip_prefix("X-Rcpt-Args: ") {
                let address = argument.split(['<', '>']).nth(1).unwrap_or_default();
                recipients.push(address.to_owned());
            }
            received += usize::from(received > 0 || line.starts_with("Received:"));
        }
        // An empty line of the sink's follows the message.
        Self {
            recipients,
            content: rest.strip_suffix(b"\n").unwrap_or(rest).to_vec(),
        }
    }
}

/// `HOST:PORT` of a socket address.
pub(crate) fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse::<IpAddr>().expect("address"), port)
}

/// Debian's user of that name.
pub(crate) const NOBODY: u32 = 65534;
