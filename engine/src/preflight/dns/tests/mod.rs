//! Checks with canned answers.

mod facts;
mod spf;

use std::collections::HashMap;

use super::answers::{Answers, Pending};
use crate::dns::wire::{Data, Kind};
use crate::dns::{Question, Records};

/// A small DNS: `name TYPE data`, one record a line. Names without records do not exist; `name FAIL`
/// never answers.
pub(super) struct Zone(HashMap<String, Vec<(String, String)>>);

impl Zone {
    pub(super) fn new(text: &str) -> Self {
        let mut zone: HashMap<String, Vec<(String, String)>> = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, rest) = line.split_once(' ').expect("a name");
            let (kind, data) = rest.split_once(' ').unwrap_or((rest, ""));
            let records = zone.entry(name.to_owned()).or_default();
            records.push((kind.to_owned(), data.trim().to_owned()));
        }
        Self(zone)
    }

    pub(super) fn ask(&self, question: &Question) -> Records {
        let Some(records) = self.0.get(&question.name) else {
            return Records::NoSuchDomain;
        };
        if records.iter().any(|(kind, _)| kind == "FAIL") {
            return Records::Failed("SERVFAIL".to_owned());
        }
        let data: Vec<Data> = records
            .iter()
            .filter(|(kind, _)| *kind == question.kind.to_string())
            .map(|(_, data)| match question.kind {
                Kind::A => Data::A(data.parse().expect("IPv4")),
                Kind::Aaaa => Data::Aaaa(data.parse().expect("IPv6")),
                Kind::Txt => Data::Txt(data.as_bytes().to_vec()),
                Kind::Ptr => Data::Ptr(data.clone()),
                Kind::Mx => {
                    let (preference, host) = data.split_once(' ').expect("preference");
                    let host = host.trim_end_matches('.').to_owned();
                    Data::Mx(preference.parse().expect("preference"), Some(host))
                }
            })
            .collect();
        if data.is_empty() {
            Records::Nothing
        } else {
            Records::Found(data)
        }
    }

    /// Runs a check until it has all answers; the rounds are counted.
    pub(super) fn run<T>(&self, mut check: impl FnMut(&mut Answers) -> Result<T, Pending>) -> T {
        let mut answers = Answers::default();
        for _ in 0..=super::QUESTIONS_MAX {
            if let Ok(done) = check(&mut answers) {
                return done;
            }
            let wanted = answers.take_wanted();
            assert!(!wanted.is_empty(), "pending without a question");
            for question in wanted {
                let records = self.ask(&question);
                answers.put(question, records);
            }
        }
        panic!("no end");
    }
}
