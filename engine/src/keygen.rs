//! `hikyaku keygen`: makes a DKIM key, writes it where only its owner can read it, and says what
//! belongs into DNS and into the settings.
//!
//! The file is created, never replaced: a key in use cannot be overwritten by a repeated command.
//! The private key goes to that file and nowhere else.

use crate::cli::{KeyKind, KeygenArgs};
use crate::mail::domain::is_domain_name;
use crate::signing::{PrivateKey, base64};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::Ed25519KeyPair;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// `--domain` or `--selector` cannot stand in DNS.
    #[error(
        "--{flag}: {name:?} is not a domain name: use letters, digits, hyphens and dots (A-labels)"
    )]
    Name {
        /// Which flag.
        flag: &'static str,
        /// As given.
        name: String,
    },
    /// `--out` exists.
    #[error("--out: {path} exists and was left as it is: name a new file")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The key file cannot be written.
    #[error("--out: {path} cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The answer cannot be printed; the key file is there.
    #[error("the DNS record cannot be printed: {source}")]
    Print {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library could not make a key")]
    Library,
}

/// Makes the key, writes `args.out` with mode 0600, and prints the rest to `out`.
///
/// # Errors
/// Nothing is left behind unless the error says so.
pub fn run(args: &KeygenArgs, out: &mut impl Write) -> Result<(), KeygenError> {
    let domain = args.domain.to_ascii_lowercase();
    for (flag, name) in [("domain", &domain), ("selector", &args.selector)] {
        if !is_domain_name(name) {
            return Err(KeygenError::Name {
                flag,
                name: name.clone(),
            });
        }
    }
    let pem = generate(args.kind)?;
    let key = PrivateKey::from_pem(pem.as_bytes()).map_err(|_| KeygenError::Library)?;
    store(&args.out, pem.as_bytes())?;

    let name = format!("{}._domainkey.{domain}", args.selector);
    let record = key.dns_record();
    let text = if args.json {
        let answer = serde_json::json!({
            "name": name, "type": "TXT", "value": record, "zone": zone_line(&name, &record), "key": args.out,
        });
        format!("{answer}\n")
    } else {
        format!(
            "; DNS: publish this before the first message is signed\n{}\n\n# settings\n{}",
            zone_line(&name, &record),
            snippet(&domain, args),
        )
    };
    out.write_all(text.as_bytes())
        .map_err(|source| KeygenError::Print { source })
}

/// A new private key as PKCS#8 PEM.
fn generate(kind: KeyKind) -> Result<String, KeygenError> {
    match kind {
        KeyKind::Rsa2048 => {
            let key =
                rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(|_| KeygenError::Library)?;
            let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).map_err(|_| KeygenError::Library)?;
            Ok(pem(der.as_ref()))
        }
        KeyKind::Ed25519 => {
            // Version 1 of PKCS#8: the one that openssl reads.
            let key = Ed25519KeyPair::generate().map_err(|_| KeygenError::Library)?;
            let der = key.to_pkcs8v1().map_err(|_| KeygenError::Library)?;
            Ok(pem(der.as_ref()))
        }
    }
}

fn pem(der: &[u8]) -> String {
    let text = base64::encode_string(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        let _ = writeln!(pem, "{line}");
        rest = tail;
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

fn store(path: &PathBuf, pem: &[u8]) -> Result<(), KeygenError> {
    // `create_new` is O_EXCL: it also refuses a dangling symbolic link.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => KeygenError::Exists { path: path.clone() },
            _ => KeygenError::Write {
                path: path.clone(),
                source,
            },
        })?;
    let written = file.write_all(pem).and_then(|()| file.sync_all());
    written.map_err(|source| {
        // Half a key is of no use, and would stand in the way of the next try.
        let _ = std::fs::remove_file(path);
        KeygenError::Write {
            path: path.clone(),
            source,
        }
    })
}

/// The record in zone file form, in strings of at most 255 bytes (RFC 1035 §3.3, RFC 6376 §3.6.2.2).
fn zone_line(name: &str, record: &str) -> String {
    let mut line = format!("{name}. IN TXT (");
    let mut rest = record;
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(rest.len().min(255));
        let _ = write!(line, " \"{part}\"");
        rest = tail;
    }
    line.push_str(" )");
    line
}

fn snippet(domain: &str, args: &KeygenArgs) -> String {
    // An absolute path, because the engine may be started elsewhere.
    let path = std::path::absolute(&args.out).unwrap_or_else(|_| args.out.clone());
    format!(
        "[[dkim]]\ndomain = \"{domain}\"\nselector = \"{}\"\nkey = {}\n",
        args.selector,
        crate::settings::toml_string(&path.to_string_lossy()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::{DkimKey, Signer};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn args(kind: KeyKind, out: &Path) -> KeygenArgs {
        KeygenArgs {
            domain: "Example.com".into(),
            selector: "s1".into(),
            kind,
            out: out.into(),
            json: false,
        }
    }

    #[test]
    fn a_made_key_signs_and_its_settings_are_read() {
        let directory = tempfile::tempdir().expect("directory");
        for (kind, name, record) in [
            (KeyKind::Rsa2048, "rsa.pem", "v=DKIM1; k=rsa; p=MII"),
            (KeyKind::Ed25519, "ed.pem", "v=DKIM1; k=ed25519; p="),
        ] {
            let path = directory.path().join(name);
            let mut printed = Vec::new();
            run(&args(kind, &path), &mut printed).expect("key");
            let printed = String::from_utf8(printed).expect("UTF-8");
            assert_eq!(
                path.metadata().expect("file").permissions().mode() & 0o777,
                0o600
            );
            assert!(
                printed.contains(&format!("s1._domainkey.example.com. IN TXT ( \"{record}")),
                "{printed}"
            );
            let key = DkimKey {
                domain: "example.com".into(),
                selector: "s1".into(),
                key: path.clone(),
                subdomains: true,
            };
            let signer = Signer::load(std::slice::from_ref(&key)).expect("the key it wrote");
            let mut field = Vec::new();
            assert_eq!(
                signer
                    .sign(b"From: a@example.com\r\n\r\nx\r\n", 1, &mut field)
                    .expect("signature"),
                1
            );

            let snippet = printed.split("# settings\n").nth(1).expect("snippet");
            let host = crate::settings::Host {
                cores: 1,
                name: None,
            };
            let file = Some((Path::new("h.toml"), snippet));
            let settings = crate::settings::Settings::resolve(file, &Default::default(), &host)
                .expect("snippet");
            assert_eq!(settings.dkim, [key]);

            let pem = std::fs::read_to_string(&path).expect("key");
            let secret = pem.lines().nth(1).expect("base64");
            assert!(!printed.contains(secret), "the private key is not printed");
        }
    }

    #[test]
    fn no_file_is_replaced() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("key.pem");
        std::fs::write(&path, "precious").expect("file");
        let link = directory.path().join("link.pem");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).expect("link");
        for path in [&path, &link] {
            let error = run(&args(KeyKind::Ed25519, path), &mut Vec::new())
                .expect_err("exists")
                .to_string();
            assert_eq!(
                error,
                format!(
                    "--out: {} exists and was left as it is: name a new file",
                    path.display()
                )
            );
        }
        assert_eq!(std::fs::read_to_string(&path).expect("file"), "precious");
        let missing = directory.path().join("no/such/key.pem");
        assert!(matches!(
            run(&args(KeyKind::Ed25519, &missing), &mut Vec::new()),
            Err(KeygenError::Write { .. })
        ));
    }

    #[test]
    fn names_are_checked_before_anything_is_made() {
        let path = Path::new("/nonexistent/key.pem");
        let wrong = KeygenArgs {
            selector: "a;b".into(),
            ..args(KeyKind::Ed25519, path)
        };
        let error = run(&wrong, &mut Vec::new())
            .expect_err("selector")
            .to_string();
        assert!(
            error.starts_with("--selector: \"a;b\" is not a domain name: "),
            "{error}"
        );
    }

    #[test]
    fn long_records_are_split() {
        let line = zone_line("s._domainkey.a.test", &"x".repeat(600));
        let parts: Vec<_> = line.split('"').skip(1).step_by(2).map(str::len).collect();
        assert_eq!(parts, [255, 255, 90]);
    }

    #[test]
    fn json_holds_the_whole_record() {
        let directory = tempfile::tempdir().expect("directory");
        let mut printed = Vec::new();
        let args = KeygenArgs {
            json: true,
            ..args(KeyKind::Rsa2048, &directory.path().join("k.pem"))
        };
        run(&args, &mut printed).expect("key");
        let answer: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
        assert_eq!(answer["name"], "s1._domainkey.example.com");
        assert!(answer["value"].as_str().expect("text").len() > 400);
    }
}
