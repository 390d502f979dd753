//! The processes of a run: the engine, which is killed, and the sink, which outlives it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Run;
use crate::load::LoadError;
use crate::process::Watched;

impl Run<'_> {
    pub(super) fn start_engine(
        &self,
        cycle: u32,
        address: SocketAddr,
        once: bool,
    ) -> std::io::Result<(Watched, Stderr)> {
        let mut command = Command::new(&self.engine);
        command.arg("run");
        for (flag, folder) in [("--drop", "drop"), ("--spool", "spool"), ("--log", "log")] {
            command.arg(flag).arg(self.dir.join(folder));
        }
        command.args([
            "--route",
            &format!("*={address}"),
            "--tls",
            "never",
            "--no-progress",
            "--no-pin",
        ]);
        let limit = format!(
            "*=connections={},connection-rate=unlimited,rate=unlimited,messages-per-connection=1000000",
            self.args.connections
        );
        command.args([
            "--limit",
            &limit,
            "--retry-first",
            "1s",
            "--retry-max",
            "2s",
        ]);
        let shards = if self.args.shards == 0 {
            1 + cycle % 3
        } else {
            u32::from(self.args.shards)
        };
        command.args(["--shards", &shards.to_string()]);
        if once {
            command.args(["--once", "--json"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = Watched::new(command.spawn()?);
        let said: Stderr = Arc::default();
        if let Some(pipe) = child.child().stderr.take() {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let line = (started.elapsed(), line);
                    said.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(line);
                }
            });
        }
        Ok((child, said))
    }

    pub(super) fn start_sink(&self) -> Result<(Watched, SocketAddr), Box<dyn std::error::Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "sink",
            "--listen",
            "127.0.0.1:0",
            "--json",
            "--without",
            "starttls",
        ]);
        command
            .args(["--script", "delay=2ms"])
            .arg("--ledger")
            .arg(self.dir.join("ledger"));
        // It outlives the run by a little, so that a harness that was killed leaves nothing behind.
        command.args(["--timeout", &(self.args.timeout + 120.0).to_string()]);
        let stderr = File::create(self.dir.join("stderr/sink"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = Watched::new(command.spawn()?);
        let failed = || LoadError::Child {
            who: "sink",
            what: "did not start".to_owned(),
        };
        let mut first = String::new();
        let mut stdout = BufReader::new(child.child().stdout.take().ok_or_else(failed)?);
        stdout.read_line(&mut first)?;
        let value: Value = serde_json::from_str(&first).map_err(|_| failed())?;
        let address = value["listening"][0]
            .as_str()
            .and_then(|address| address.parse().ok());
        // The pipe stays open, or its last words would end the sink with an error.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Ok((child, address.ok_or_else(failed)?))
    }
}

/// What a child said on standard error, and when.
pub(super) type Stderr = Arc<Mutex<Vec<(Duration, String)>>>;

pub(super) fn lines(stderr: &Stderr) -> String {
    let said = stderr.lock().unwrap_or_else(PoisonError::into_inner);
    said.iter()
        .map(|(_, line)| line.as_str())
        .collect::<Vec<_>>()
        .join(" | ")
}
