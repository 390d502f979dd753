//! What a seed's history comes to, in one number, and told aloud where somebody asks.

use super::world::World;

impl World {
    /// Puts something into the trace.
    pub(super) fn note(&mut self, parts: &[&[u8]]) {
        self.trace.update(&self.now.to_le_bytes());
        for part in parts {
            self.trace.update(part);
        }
        if self.tell {
            let texts: Vec<String> = parts.iter().map(|part| readable(part)).collect();
            eprintln!("{:>18} {}", self.now, texts.join(" "));
        }
    }

    /// The same for the same seed, down to each log line and each copy.
    pub(super) fn trace(&self) -> u64 {
        self.trace.digest()
    }
}

/// Text as it is, numbers in hexadecimal digits, last byte first.
fn readable(part: &[u8]) -> String {
    if part.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return String::from_utf8_lossy(part).into_owned();
    }
    part.iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
