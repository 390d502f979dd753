//! Settings as operators write them, right and wrong.

mod file;
mod flags;
mod printed;
mod refusals;

use super::*;
use crate::mail::envelope::OnDoubt;

fn host() -> Host {
    Host {
        cores: 4,
        name: Some("mx1.Example.com".into()),
    }
}

fn with(text: &str, args: &RunArgs) -> Result<Settings, SettingsError> {
    Settings::resolve(Some((Path::new("/etc/h.toml"), text)), args, &host())
}

fn file(text: &str) -> Settings {
    with(text, &RunArgs::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn flags(args: &RunArgs) -> Settings {
    Settings::resolve(None, args, &host()).unwrap_or_else(|error| panic!("{error}"))
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

const FULL: &str = r#"
limit = ["*.example.net=10/s", "google=connections=20"]

[engine]
drop = "drop"
spool = "/var/spool/h"
log = "/var/log/h"
profiles = "profiles"
shards = 2
ingest_core = 1
pin = false
port = 2525
connections_max = 1_000
message_size_max = "10MB"
allow_private_targets = true
development = true

[retry]
first = "1m"
max = "1h30m"
expire = "2d"

[tls]
mode = "required"
verify = true
ca_file = "ca.pem"

[dns]
resolvers = ["127.0.0.1", "[::1]:5353", "192.0.2.1:54"]

[signing]
lifetime = "10d"
batch = "auto"
batch_library = "lib/libcrypto_mb.so"

[deadlines]
connect = "30s"
dot = "10m"
quit = "500ms"

[[route]]
pattern = "*.corp.example"
target = "relay.corp.example"

[[route]]
pattern = "Bücher.example"
target = "[2001:db8::1]:26"

[[source]]
ip = "192.0.2.7"
ehlo = "mx7.example.com"
name = "bulk-7"

[[source]]
ip = "2001:db8::7"
ehlo = "[IPv6:2001:db8::7]"

[[dkim]]
domain = "Example.com"
selector = "2026a"
key = "keys/2026a.pem"

[[dkim]]
domain = "example.com"
selector = "ed2026a"
key = "/keys/ed2026a.pem"
subdomains = false
"#;
