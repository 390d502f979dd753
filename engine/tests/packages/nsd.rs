//! A private nsd: authoritative for `test.` and others from zones that the test writes, and unable to answer
//! for `broken.`, whose zone file is missing.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tempfile::TempDir;

use crate::engine::public_dir;
use crate::server::{Server, bounded, free_port, run};
use crate::smtp_sink::at;

/// A running nsd.
#[derive(Debug)]
pub(crate) struct Nsd {
    _server: Server,
    _dir: TempDir,
    pub(crate) address: SocketAddr,
}

impl Nsd {
    /// Starts one; `records` are the zone's lines below SOA and NS.
    pub(crate) fn start(records: &str) -> Self {
        Self::start_zones(&[("test", records)])
    }

    /// The same with more zones than `test`: the names of addresses, for example.
    pub(crate) fn start_zones(zones: &[(&str, &str)]) -> Self {
        let dir = public_dir();
        let root = dir.path().display();
        let address = at("127.0.0.1", free_port());
        let port = address.port();
        let mut config = format!(
            "server:
  ip-address: 127.0.0.1
  port: {port}
  username: \"\"
  chroot: \"\"
  zonesdir: \"{root}\"
  database: \"\"
  pidfile: \"\"
  logfile: \"\"
  zonelistfile: \"{root}/zone.list\"
  xfrdfile: \"{root}/xfrd.state\"
  xfrdir: \"{root}\"
  server-count: 1
remote-control:
  control-enable: no
zone:
  name: broken
  zonefile: missing.zone
"
        );
        for (zone, records) in zones {
            let path = dir.path().join(format!("{zone}.zone"));
            let text = format!(
                "$ORIGIN {zone}.\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n{records}"
            );
            fs::write(&path, text).expect("zone");
            run(bounded("nsd-checkzone", 30).arg(zone).arg(&path));
            let _ = write!(config, "zone:\n  name: {zone}\n  zonefile: {zone}.zone\n");
        }
        let config_path = dir.path().join("nsd.conf");
        fs::write(&config_path, config).expect("settings");
        let mut command = bounded("nsd", 240);
        command.arg("-d").arg("-c").arg(&config_path);
        let server = Server::start(&mut command, &dir.path().join("output"), address);
        Self {
            _server: server,
            _dir: dir,
            address,
        }
    }

    /// Response code and truncation of the answer to an MX question over UDP, asked as the engine
    /// asks it (EDNS, 1232 octets), but with bytes of our own.
    pub(crate) fn ask_mx(&self, name: &str) -> (u8, bool) {
        let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a label"));
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, 15, 0, 1]);
        query.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("timeout");
        for _ in 0..10 {
            socket.send_to(&query, self.address).expect("send");
            let mut answer = [0; 4096];
            match socket.recv(&mut answer) {
                Ok(length) if length >= 12 => return (answer[3] & 0x0f, answer[2] & 0x02 != 0),
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("nsd does not answer");
    }
}
