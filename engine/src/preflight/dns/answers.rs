//! What DNS has said so far, and what is still to be asked.
//!
//! Checks are written as plain functions over answers. One that misses an answer notes the question and
//! stops with [`Pending`]; once the question is answered it is run again from its beginning. That keeps
//! them readable, and costs nothing beside the network. Questions are bounded: a domain whose records lead
//! on for ever gets failures instead of answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::wire::{Data, Kind, normal_name};
use crate::dns::{Question, Records};

/// Questions of one check.
pub const QUESTIONS_MAX: usize = 600;

/// An answer is missing; its question is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Answers {
    known: HashMap<Question, Arc<Records>>,
    wanted: Vec<Question>,
}

impl Answers {
    /// What is known about a name. What cannot be a name has nothing.
    pub(super) fn get(&mut self, name: &str, kind: Kind) -> Result<Arc<Records>, Pending> {
        let Ok(name) = normal_name(name) else {
            return Ok(Arc::new(Records::Nothing));
        };
        let question = Question {
            name: name.into_owned(),
            kind,
        };
        if let Some(records) = self.known.get(&question) {
            return Ok(Arc::clone(records));
        }
        if self.known.len() + self.wanted.len() >= QUESTIONS_MAX {
            let text = format!("more than {QUESTIONS_MAX} questions");
            return Ok(Arc::new(Records::Failed(text)));
        }
        if !self.wanted.contains(&question) {
            self.wanted.push(question);
        }
        Err(Pending)
    }

    /// The questions noted since the last call.
    pub(super) fn take_wanted(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.wanted)
    }

    pub(super) fn put(&mut self, question: Question, records: Records) {
        self.known.insert(question, Arc::new(records));
    }

    /// Questions that nobody answered, with what was said.
    pub(super) fn failures(&self) -> Vec<String> {
        let failed = self
            .known
            .iter()
            .filter_map(|(question, records)| match &**records {
                Records::Failed(text) => Some(format!("{question}: {text}")),
                _ => None,
            });
        let mut failed: Vec<String> = failed.collect();
        failed.sort_unstable();
        failed
    }
}

/// The texts of a TXT answer.
pub(super) fn texts(records: &Records) -> impl Iterator<Item = &[u8]> {
    data(records).iter().filter_map(|data| match data {
        Data::Txt(text) => Some(text.as_slice()),
        _ => None,
    })
}

/// The addresses of an A or AAAA answer.
pub(super) fn addresses(records: &Records) -> impl Iterator<Item = IpAddr> {
    data(records).iter().filter_map(|data| match data {
        Data::A(v4) => Some((*v4).into()),
        Data::Aaaa(v6) => Some((*v6).into()),
        _ => None,
    })
}

pub(super) fn data(records: &Records) -> &[Data] {
    match records {
        Records::Found(data) => data,
        _ => &[],
    }
}

/// The type of record for addresses of this family.
pub(super) const fn family(ip: IpAddr) -> Kind {
    match ip {
        IpAddr::V4(_) => Kind::A,
        IpAddr::V6(_) => Kind::Aaaa,
    }
}

/// Where the name of an address is (RFC 1035 §3.5, RFC 3596 §2.5).
pub(super) fn reverse_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| {
                [octet & 15, octet >> 4]
                    .map(|nibble| char::from_digit(nibble.into(), 16).unwrap_or('0'))
            });
            let mut name = String::with_capacity(72);
            for nibble in nibbles {
                name.push(nibble);
                name.push('.');
            }
            name.push_str("ip6.arpa");
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_addresses() {
        assert_eq!(
            reverse_name("192.0.2.1".parse().unwrap()),
            "1.2.0.192.in-addr.arpa"
        );
        assert_eq!(
            reverse_name("2001:db8::1".parse().unwrap()),
            format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23))
        );
    }

    #[test]
    fn questions_end() {
        let mut answers = Answers::default();
        for number in 0..QUESTIONS_MAX {
            assert_eq!(
                answers.get(&format!("n{number}.test"), Kind::A),
                Err(Pending)
            );
        }
        let last = answers.get("last.test", Kind::A).unwrap();
        assert!(matches!(*last, Records::Failed(_)));
        assert_eq!(answers.take_wanted().len(), QUESTIONS_MAX);
        assert_eq!(*answers.get("no name", Kind::A).unwrap(), Records::Nothing);
    }
}
