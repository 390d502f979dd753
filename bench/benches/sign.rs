//! What DKIM costs: canonical body and its hash, preparing, signing one at a time and in batches. All
//! in CPU time of the thread, so that a busy machine shows the same. Content is text of 4 and 20 KiB
//! with the header of bulk mail; each prints the checksum of its input, so that equal numbers mean
//! equal work. `batch/of_8` is the time for eight.
//!
//! `cargo bench -p hikyaku-bench --bench sign`; batches need Intel's libcrypto_mb where the loader finds
//! it, or its path in `HIKYAKU_CRYPTO_MB`.

use std::fmt::Write as _;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use hikyaku::signing::{Batching, BodyHash, DkimKey, Signer, Unsigned};
use hikyaku_bench::cpu;

const NOW: u64 = 1_790_000_000;

fn content(bytes: usize) -> Vec<u8> {
    let mut text = String::from(
        "From: News <news@sender.test>\r\nTo: someone.or.other@example.com\r\nSubject: Offers of the week\r\n\
         Date: Sat, 21 Nov 2026 20:00:00 +0000\r\nMessage-ID: <4711.2@sender.test>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\
         List-Id: <news.sender.test>\r\nList-Unsubscribe: <https://sender.test/u/0123456789abcdef>\r\n\
         List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nFeedback-ID: 4711:news:sender\r\n\r\n",
    );
    for line in 0.. {
        if text.len() >= bytes {
            break;
        }
        let _ = write!(
            text,
            "<p style=3D\"margin: 0\">{line:04} the quick brown fox jumps  over the lazy dog</p>\r\n"
        );
    }
    println!(
        "content of {} bytes, checksum {:016x}",
        text.len(),
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    );
    text.into_bytes()
}

/// A signer for keys of the engine's tests, which have to be private files.
fn signer(directory: &Path, files: &[&str]) -> Signer {
    let keys: Vec<_> = files
        .iter()
        .map(|file| {
            let from = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../engine/tests/data/dkim-keys")
                .join(file);
            let key = directory.join(file);
            std::fs::copy(from, &key).expect("a key of the tests");
            std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("mode");
            DkimKey {
                domain: "sender.test".into(),
                selector: file.split('.').next().unwrap_or(file).into(),
                key,
                subdomains: false,
            }
        })
        .collect();
    Signer::load(&keys).expect("keys")
}

/// CPU time of `work`, without that of `prepare`.
fn cpu<T>(bencher: &mut Bencher<'_>, mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T)) {
    bencher.iter_custom(|rounds| {
        let mut total = Duration::ZERO;
        for _ in 0..rounds {
            let mut input = prepare();
            let start = cpu::thread();
            work(&mut input);
            total += cpu::thread() - start;
            black_box(&input);
        }
        total
    });
}

fn prepared(signer: &Signer, content: &[u8], count: usize) -> Vec<Unsigned> {
    (0..count)
        .map(|number| {
            let mut unsigned = Unsigned::default();
            // Each second of its own, so that no two signatures are the same.
            let now = NOW + number as u64;
            signer
                .prepare(content, None, now, &mut unsigned)
                .expect("a From");
            unsigned
        })
        .collect()
}

fn sign(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("directory");
    let rsa = signer(directory.path(), &["rsa2048-pkcs8.pem"]);
    let ed = signer(directory.path(), &["ed25519.pem"]);
    let both = signer(directory.path(), &["rsa2048-pkcs8.pem", "ed25519.pem"]);
    let contents = [("4k", content(4 << 10)), ("20k", content(20 << 10))];

    let mut group = criterion.benchmark_group("sign");
    for (size, content) in &contents {
        let header_bytes = body_start(content);
        let body = &content[header_bytes..];
        group.bench_function(format!("body_hash/{size}"), |bencher| {
            cpu(
                bencher,
                || (),
                |()| {
                    black_box(BodyHash::of(black_box(body)));
                },
            );
        });
        for (name, hash) in [
            ("prepare", None),
            ("prepare_known_body", Some(BodyHash::of(body))),
        ] {
            group.bench_function(format!("{name}/{size}"), |bencher| {
                let mut unsigned = Unsigned::default();
                cpu(
                    bencher,
                    || (),
                    |()| {
                        let made = rsa.prepare(black_box(content), hash, NOW, &mut unsigned);
                        assert_eq!(made.expect("a From"), 1);
                    },
                );
            });
        }
    }
    let content = &contents[0].1;
    for (name, signer) in [("rsa2048", &rsa), ("ed25519", &ed), ("both", &both)] {
        let unsigned = prepared(signer, content, 1);
        let mut out = Vec::new();
        group.bench_function(format!("one/{name}"), |bencher| {
            cpu(
                bencher,
                || (),
                |()| {
                    out.clear();
                    signer.finish(&unsigned[0], &mut out).expect("signature");
                },
            );
        });
    }

    let library = std::env::var_os("HIKYAKU_CRYPTO_MB").map(PathBuf::from);
    let batching = rsa.with_batching(&Batching::Auto { library });
    if batching.batch_width() == 1 {
        println!(
            "sign/batch: left out, because libcrypto_mb cannot be loaded or does not run on this CPU"
        );
    } else {
        for count in [3, 8] {
            group.bench_function(format!("batch/of_{count}"), |bencher| {
                let mut out = Vec::new();
                cpu(
                    bencher,
                    || prepared(&batching, content, count),
                    |unsigned| {
                        batching.sign_batch(&mut *unsigned);
                        for unsigned in unsigned {
                            out.clear();
                            batching.finish(unsigned, &mut out).expect("signature");
                        }
                    },
                );
            });
        }
    }
    group.finish();
}

/// Where the body begins.
fn body_start(content: &[u8]) -> usize {
    let end = content.windows(4).position(|four| four == b"\r\n\r\n");
    end.map_or(content.len(), |end| end + 4)
}

criterion_group!(benches, sign);
criterion_main!(benches);
