//! Profiles: one receiver's limits each, found by MX suffix or by domain.
//!
//! Layers, lowest first: built-in `default`, the operator's `default.toml`, the built-in profile,
//! the operator's file of the same name. Each is laid over the one below key by key, so an
//! operator's file holds only what differs. `--limit` flags go on top ([`crate::limit`]).
//! Everything is checked when read: a profile that no receiver can match, two profiles that claim
//! the same suffix or domain, and values that contradict are refused, never ignored.

use crate::builtin;
use crate::error::TuningError;
use crate::limits::{Limits, Overlay};
use crate::parse::{self, Draft, Matching};
use std::collections::BTreeMap;
use std::path::Path;

/// The profile of every receiver that no other one matches.
pub const DEFAULT: &str = "default";

/// What one site is, for hosts that match a suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rollup {
    /// All hosts under the suffixes are one site: one receiver, one limit.
    #[default]
    Suffix,
    /// Each set of MX hosts under the suffixes is a site of its own with these limits: a filter
    /// service whose customers or regions do not share machines.
    HostSet,
}

/// One receiver: which hosts or domains it is, and what it bears.
#[derive(Debug, Clone)]
pub struct Profile {
    name: String,
    matching: Matching,
    overlay: Overlay,
    limits: Limits,
}

impl Profile {
    /// The file's name without `.toml`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its limits, every key resolved.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Suffixes of MX host names, each with its leading dot.
    #[must_use]
    pub fn mx_suffixes(&self) -> &[String] {
        &self.matching.mx_suffix
    }

    /// Recipient domains that are this receiver whatever their MX.
    #[must_use]
    pub fn domains(&self) -> &[String] {
        &self.matching.domain
    }

    /// Whether all matching hosts are one site.
    #[must_use]
    pub fn rollup(&self) -> Rollup {
        self.matching.rollup
    }

    pub(crate) fn overlay(&self) -> &Overlay {
        &self.overlay
    }
}

/// All profiles of a run. Immutable; built once and shared.
#[derive(Debug, Clone)]
pub struct Profiles {
    by_name: BTreeMap<String, Profile>,
    /// Domain -> name of its profile.
    domains: BTreeMap<String, String>,
    default: Profile,
}

impl Profiles {
    /// The profiles that the program carries.
    ///
    /// # Panics
    /// Never in a tested build: the built-in files are part of the program, and a test loads them.
    #[must_use]
    pub fn builtin() -> Self {
        Self::assemble(BTreeMap::new()).expect("the built-in profiles are checked by a test")
    }

    /// The built-in profiles with the operator's on top. `path` is a directory, of which every
    /// `*.toml` is read, or one such file.
    ///
    /// # Errors
    /// A file that cannot be read, or anything in one that is not right; see [`TuningError`].
    pub fn load(path: &Path) -> Result<Self, TuningError> {
        let unreadable = |path: &Path| {
            let path = path.to_path_buf();
            move |source| TuningError::Read { path, source }
        };
        let mut files = Vec::new();
        if path.is_dir() {
            for entry in std::fs::read_dir(path).map_err(unreadable(path))? {
                let file = entry.map_err(unreadable(path))?.path();
                if file.extension().is_some_and(|ext| ext == "toml") {
                    files.push(file);
                }
            }
        } else {
            files.push(path.to_path_buf());
        }
        let mut drafts = BTreeMap::new();
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(unreadable(&file))?;
            let shown = file.display().to_string();
            let name = file
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default()
                .to_owned();
            drafts.insert(name, (parse::profile(&shown, &text)?, shown));
        }
        Self::assemble(drafts)
    }

    /// The operator's profiles given as (name, TOML text), on top of the built-in ones.
    ///
    /// # Errors
    /// As [`Self::load`], but nothing is read from disk.
    pub fn from_texts<'a>(
        texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, TuningError> {
        let mut drafts = BTreeMap::new();
        for (name, text) in texts {
            let shown = format!("{name}.toml");
            drafts.insert(name.to_owned(), (parse::profile(&shown, text)?, shown));
        }
        Self::assemble(drafts)
    }

    fn assemble(mut drafts: BTreeMap<String, (Draft, String)>) -> Result<Self, TuningError> {
        let mut merged: BTreeMap<String, (Draft, String)> = BTreeMap::new();
        for (name, text) in builtin::FILES {
            let shown = format!("{name}.toml (built in)");
            let below = parse::profile(&shown, text)?;
            let both = match drafts.remove(*name) {
                None => (below, shown),
                Some((upper, file)) => {
                    let overlay = below.overlay.merged(&upper.overlay);
                    (
                        Draft {
                            overlay,
                            matching: upper.matching.or(below.matching),
                        },
                        file,
                    )
                }
            };
            merged.insert((*name).to_owned(), both);
        }
        merged.append(&mut drafts);

        let (draft, file) = merged.remove(DEFAULT).expect("default.toml is built in");
        let refuse = |file: &str, message: String| TuningError::Profile {
            file: file.into(),
            message,
        };
        if draft.matching.is_some() {
            return Err(refuse(
                &file,
                "the default profile is for every other receiver: remove its `match`".into(),
            ));
        }
        let limits = draft
            .overlay
            .complete()
            .expect("the built-in default.toml sets every key");
        if let Some(message) = limits.contradiction() {
            return Err(refuse(&file, message));
        }
        let default = Profile {
            name: DEFAULT.into(),
            matching: Matching::default(),
            overlay: draft.overlay,
            limits,
        };

        let mut by_name = BTreeMap::new();
        let mut suffixes: BTreeMap<String, String> = BTreeMap::new();
        let mut domains: BTreeMap<String, String> = BTreeMap::new();
        for (name, (draft, file)) in merged {
            check_name(&name).map_err(|message| refuse(&file, message))?;
            let matching = draft.matching.unwrap_or_default();
            if matching.mx_suffix.is_empty() && matching.domain.is_empty() {
                return Err(refuse(
                    &file,
                    format!(
                        "`{name}` is no built-in profile and has no match, so no receiver would ever use it: add `match = {{ mx_suffix = [\".example.com\"] }}` or correct the file's name"
                    ),
                ));
            }
            let limits = draft.overlay.over(&default.limits);
            if let Some(message) = limits.contradiction() {
                return Err(refuse(&file, message));
            }
            for (kind, texts, taken) in [
                ("mx_suffix", &matching.mx_suffix, &mut suffixes),
                ("domain", &matching.domain, &mut domains),
            ] {
                for text in texts {
                    if let Some(other) = taken.insert(text.clone(), name.clone()) {
                        return Err(refuse(
                            &file,
                            format!(
                                "{kind} `{text}` stands in `{other}` and in `{name}`: remove it from one of them"
                            ),
                        ));
                    }
                }
            }
            by_name.insert(
                name.clone(),
                Profile {
                    name,
                    matching,
                    overlay: draft.overlay,
                    limits,
                },
            );
        }
        Ok(Self {
            by_name,
            domains,
            default,
        })
    }

    /// The profile of a site that an MX rule named; the default one for any other name.
    #[must_use]
    pub fn for_site(&self, name: &str) -> &Profile {
        self.by_name.get(name).unwrap_or(&self.default)
    }

    /// The profile that claims this recipient domain itself (lower case, no final dot), before any DNS.
    #[must_use]
    pub fn by_domain(&self, domain: &str) -> Option<&Profile> {
        self.domains
            .get(domain)
            .and_then(|name| self.by_name.get(name))
    }

    /// Every (MX suffix, profile name), longest suffix first: the first that fits is the right one.
    #[must_use]
    pub fn mx_rules(&self) -> Vec<(String, String)> {
        let mut rules: Vec<_> = self
            .by_name
            .values()
            .flat_map(|profile| {
                profile
                    .matching
                    .mx_suffix
                    .iter()
                    .map(|suffix| (suffix.clone(), profile.name.clone()))
            })
            .collect();
        rules.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        rules
    }

    /// The profile whose suffix fits this MX host name best (lower case, no final dot).
    #[must_use]
    pub fn by_mx(&self, host: &str) -> Option<&Profile> {
        self.by_name
            .values()
            .flat_map(|profile| {
                profile
                    .matching
                    .mx_suffix
                    .iter()
                    .map(move |suffix| (suffix, profile))
            })
            .filter(|(suffix, _)| host.ends_with(suffix.as_str()))
            .max_by_key(|(suffix, _)| suffix.len())
            .map(|(_, profile)| profile)
    }

    /// Limits of a receiver that nothing is known about.
    #[must_use]
    pub fn default_limits(&self) -> &Limits {
        &self.default.limits
    }

    /// All profiles by name, the default one first.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        std::iter::once(&self.default).chain(self.by_name.values())
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        name == DEFAULT || self.by_name.contains_key(name)
    }
}

/// A name without a dot cannot be taken for a domain in `--limit`.
fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(());
    }
    Err(format!(
        "`{name}` is no name of a profile: name the file with lower-case letters, digits and hyphens, such as my-isp.toml"
    ))
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
