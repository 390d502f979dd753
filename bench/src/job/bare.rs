//! What a signed message of the job cannot do without, alone and in CPU time of this thread: its signature,
//! the hash that is signed, and the message itself.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hikyaku::job::rows::encode_field;
use hikyaku::job::template::Template;
use hikyaku::job::token::Secret;
use hikyaku::job::{Bundle, RowView};
use hikyaku::mail::id::SubmissionId;
use hikyaku::signing::{Batching, DkimKey, Signer, Unsigned};

use super::work::{COLUMNS, SENDER, Work};
use crate::cpu;

/// Microseconds of CPU per message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bare {
    /// One RSA-2048 signature by aws-lc-rs, written as a field.
    pub(super) signature: f64,
    /// The same as one of eight in a full batch; nothing where there are no batches.
    pub(super) in_batch: Option<f64>,
    /// Canonical form and SHA-256 of header and body.
    pub(super) hashing: f64,
    /// Template and MIME: from the row to the finished message.
    pub(super) template: f64,
}

/// The job's template, rows and key in this process.
pub(super) struct Bench {
    template: Template,
    rows: Vec<(String, Vec<u8>)>,
    one: Signer,
    batch: Signer,
}

impl Bench {
    /// `key` is the key file of the run.
    pub(super) fn new(
        work: &Work,
        key: &Path,
        library: Option<&Path>,
    ) -> Result<Self, Box<dyn Error>> {
        let files = work.files().into_iter();
        let bundle = Bundle {
            id: SubmissionId(u128::from(work.seed)),
            accepted_ms: 1_795_312_800_000,
            columns: COLUMNS.map(Into::into).to_vec(),
            files: files
                .map(|(name, content)| (name.into(), Arc::from(content.as_bytes())))
                .collect(),
        };
        let rows = (0..work.rows.min(ROWS)).map(|number| {
            let row = work.row(number);
            let mut fields = Vec::new();
            for value in [&row.email, row.name, row.city, &row.code] {
                encode_field(&mut fields, value, &row.email);
            }
            (row.email, fields)
        });
        let keys = [DkimKey {
            domain: SENDER.into(),
            selector: "bench".into(),
            key: key.into(),
            subdomains: false,
        }];
        let library = library.map(Into::into);
        Ok(Self {
            template: Template::compile(&bundle, &Secret::new(&[7; 32]))?,
            rows: rows.collect(),
            one: Signer::load(&keys)?,
            batch: Signer::load(&keys)?.with_batching(&Batching::Auto { library }),
        })
    }

    /// Whether there are batches here.
    pub(super) fn has_batches(&self) -> bool {
        self.batch.batch_width() > 1
    }

    /// Does each of it for some hundred milliseconds.
    pub(super) fn measure(&self) -> Result<Bare, Box<dyn Error>> {
        let mut bare = Bare::default();
        let mut contents: Vec<Vec<u8>> = vec![Vec::new(); BATCH];
        let start = cpu::thread();
        for number in 0..TIMES {
            let index = number % self.rows.len();
            let (recipient, fields) = &self.rows[index];
            let out = &mut contents[number % BATCH];
            out.clear();
            let row = RowView {
                number: index as u64,
                recipient,
                fields,
            };
            self.template.render(row, out)?;
        }
        bare.template = each(start, TIMES);

        let mut unsigned: Vec<Unsigned> = Vec::new();
        unsigned.resize_with(BATCH, Unsigned::default);
        let start = cpu::thread();
        for number in 0..TIMES {
            let place = number % BATCH;
            let (content, unsigned) = (&contents[place], &mut unsigned[place]);
            self.one.prepare(content, None, NOW, unsigned)?;
        }
        bare.hashing = each(start, TIMES);

        let mut out = Vec::new();
        let start = cpu::thread();
        for number in 0..SIGNATURES {
            out.clear();
            self.one.finish(&unsigned[number % BATCH], &mut out)?;
            black_box(&out);
        }
        bare.signature = each(start, SIGNATURES);

        if self.has_batches() {
            let mut used = Duration::ZERO;
            for _ in 0..SIGNATURES / BATCH {
                for (content, unsigned) in contents.iter().zip(&mut unsigned) {
                    self.batch.prepare(content, None, NOW, unsigned)?;
                }
                let start = cpu::thread();
                self.batch.sign_batch(&mut unsigned);
                for unsigned in &unsigned {
                    out.clear();
                    self.batch.finish(unsigned, &mut out)?;
                    black_box(&out);
                }
                used += cpu::thread() - start;
            }
            let made = SIGNATURES / BATCH * BATCH;
            bare.in_batch = Some(cpu::us(used) / made as f64);
        }
        Ok(bare)
    }
}

fn each(start: Duration, times: usize) -> f64 {
    cpu::us(cpu::thread() - start) / times as f64
}

/// Rows that are rendered, in turn.
const ROWS: u64 = 1000;
const TIMES: usize = 5000;
const SIGNATURES: usize = 800;
/// Messages of a full batch.
const BATCH: usize = 8;
/// `t=`.
const NOW: u64 = 1_795_312_800;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_rows_of_the_job_are_rendered_and_signed() {
        let work = Work {
            rows: 20,
            duplicates: 0,
            domains: 3,
            template_bytes: 4 << 10,
            seed: 1,
        };
        let dir = tempfile::tempdir().expect("directory");
        let key = dir.path().join("key");
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/data/dkim-keys");
        std::fs::copy(data.join("rsa2048-pkcs8.pem"), &key).expect("key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("mode");
        let bench = Bench::new(&work, &key, None).expect("a job");
        for (number, (recipient, fields)) in bench.rows.iter().enumerate() {
            let number = number as u64;
            let row = RowView {
                number,
                recipient,
                fields,
            };
            let mut content = Vec::new();
            bench.template.render(row, &mut content).expect("a message");
            super::super::dkim::decoded(&content, &work.row(number)).expect("its fields");
            let mut unsigned = Unsigned::default();
            let count = bench.one.prepare(&content, None, NOW, &mut unsigned);
            assert_eq!(count.expect("a From"), 1);
        }
    }
}
