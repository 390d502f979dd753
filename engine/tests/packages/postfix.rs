//! A private Postfix that writes each mailbox to a Maildir.
//!
//! Nothing of /etc/postfix or /var is read or written. All that Postfix would change about a message
//! by its settings (header rewriting, dropped fields, limits) is off: what is left is the protocol.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::engine::public_dir;
use crate::server::{Server, bounded, free_port, run};
use crate::smtp_sink::{NOBODY, at};

/// A running Postfix.
#[derive(Debug)]
pub(crate) struct Postfix {
    server: Server,
    dir: TempDir,
    pub(crate) address: SocketAddr,
    /// PEM of its certificate, for those who trust it.
    pub(crate) certificate: PathBuf,
}

impl Postfix {
    /// Starts one that knows `mailboxes` (local parts of `mailbox.test`). `tls`: offers STARTTLS.
    pub(crate) fn start(mailboxes: &[&str], tls: bool) -> Self {
        Self::start_with(mailboxes, tls, "")
    }

    /// The same with more lines in its main.cf.
    pub(crate) fn start_with(mailboxes: &[&str], tls: bool, more: &str) -> Self {
        let dir = public_dir();
        let path = |name: &str| dir.path().join(name);
        for name in ["etc", "queue", "data", "mail"] {
            fs::create_dir(path(name)).expect("directory");
        }
        let user = run(bounded("id", 10).args(["-u", "postfix"]))
            .trim()
            .parse()
            .expect("a user id");
        chown(path("data"), Some(user), None).expect("chown");
        chown(path("mail"), Some(NOBODY), None).expect("chown");
        let certificate = path("etc/certificate.pem");
        let address = at("127.0.0.1", free_port());
        write_settings(dir.path(), address.port(), mailboxes, more);
        if tls {
            write_certificate(dir.path(), &certificate);
        }
        // Makes the queue's directories, and says what is wrong with the settings.
        run(bounded("postfix", 60)
            .arg("-c")
            .arg(path("etc"))
            .arg("check"));
        let mut master = bounded("/usr/lib/postfix/sbin/master", 280);
        // -d: stays a child of ours, in the process group of `timeout`.
        master.arg("-c").arg(path("etc")).arg("-d");
        let server = Server::start(&mut master, &path("output"), address);
        Self {
            server,
            dir,
            address,
            certificate,
        }
    }

    /// The messages in a mailbox, as stored.
    pub(crate) fn messages(&self, mailbox: &str) -> Vec<Vec<u8>> {
        let new = self.dir.path().join("mail").join(mailbox).join("new");
        let Ok(entries) = fs::read_dir(new) else {
            return Vec::new();
        };
        entries
            .map(|entry| fs::read(entry.expect("entry").path()).expect("message"))
            .collect()
    }

    /// The last lines of its log, for messages of failed tests.
    pub(crate) fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its log and all it printed: what only it can tell.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("mail.log")).unwrap_or_default();
        log + &self.server.output()
    }
}

/// Takes off what Postfix puts in front: Return-Path, X-Original-To, Delivered-To, one Received.
/// `None` when that is not what the message begins with.
pub(crate) fn without_trace(stored: &[u8]) -> Option<&[u8]> {
    let mut rest = stored;
    for name in [
        "Return-Path:",
        "X-Original-To:",
        "Delivered-To:",
        "Received:",
    ] {
        rest.starts_with(name.as_bytes()).then_some(())?;
        rest = after_line(rest)?;
        while rest.starts_with(b"\t") && name == "Received:" {
            rest = after_line(rest)?;
        }
    }
    Some(rest)
}

fn after_line(text: &[u8]) -> Option<&[u8]> {
    text.iter()
        .position(|&byte| byte == b'\n')
        .map(|at| &text[at + 1..])
}

fn write_settings(dir: &Path, port: u16, mailboxes: &[&str], more: &str) {
    let root = dir.display();
    let main = format!(
        "compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
meta_directory = /etc/postfix
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
maillog_file = {root}/mail.log
maillog_file_prefixes = {root}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = receiver.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
virtual_mailbox_domains = mailbox.test
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = texthash:{root}/etc/mailboxes
virtual_uid_maps = static:{NOBODY}
virtual_gid_maps = static:{NOBODY}
virtual_mailbox_limit = 0
message_size_limit = 0
mailbox_size_limit = 0
header_size_limit = 1000000
line_length_limit = 16384
local_header_rewrite_clients =
remote_header_rewrite_domain =
message_drop_headers =
disable_mime_input_processing = yes
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_event_limit_exceptions = 127.0.0.0/8
disable_dns_lookups = yes
in_flow_delay = 0s
biff = no
default_process_limit = 20
{more}
"
    );
    let services = "pickup     unix  n - n 60 1 pickup
cleanup    unix  n - n -  0 cleanup
qmgr       unix  n - n 1  1 qmgr
tlsmgr     unix  - - n 1000? 1 tlsmgr
rewrite    unix  - - n -  - trivial-rewrite
bounce     unix  - - n -  0 bounce
defer      unix  - - n -  0 bounce
trace      unix  - - n -  0 bounce
verify     unix  - - n -  1 verify
proxymap   unix  - - n -  - proxymap
showq      unix  n - n -  - showq
error      unix  - - n -  - error
retry      unix  - - n -  - error
virtual    unix  - n n -  - virtual
anvil      unix  - - n -  1 anvil
postlog    unix-dgram n - n - 1 postlogd
";
    let mut map = String::new();
    for mailbox in mailboxes {
        let _ = writeln!(map, "{mailbox}@mailbox.test {mailbox}/");
    }
    let write =
        |name: &str, text: String| fs::write(dir.join("etc").join(name), text).expect("settings");
    write("main.cf", main);
    write(
        "master.cf",
        format!("127.0.0.1:{port} inet n - n - - smtpd\n{services}"),
    );
    write("mailboxes", map);
}

/// A certificate that nobody signed, for `receiver.test` and the address it listens on.
fn write_certificate(dir: &Path, certificate: &Path) {
    let names = vec!["receiver.test".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("certificate");
    let key = dir.join("etc/key.pem");
    fs::write(certificate, made.cert.pem()).expect("certificate");
    fs::write(&key, made.signing_key.serialize_pem()).expect("key");
    let path = dir.join("etc/main.cf");
    let mut main = fs::read_to_string(&path).expect("main.cf");
    let _ = write!(
        main,
        "smtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\nsmtpd_tls_received_header = yes\n\
         smtpd_tls_chain_files = {}, {}\n",
        key.display(),
        certificate.display()
    );
    fs::write(path, main).expect("main.cf");
}
