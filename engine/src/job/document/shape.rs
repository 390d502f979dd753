//! The tables and keys of `job.toml`, as serde reads them; anything else in it is an error.
//!
//! Keys that must be there are optional here too, so that their absence gets a sentence of ours.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// A text, and where it stands.
pub(super) type Text = Option<Spanned<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) name: Text,
    pub(super) key: Text,
    pub(super) from: Text,
    pub(super) reply_to: Text,
    pub(super) to_name: Text,
    pub(super) subject: Text,
    pub(super) reverse_path: Text,
    pub(super) priority: Option<Spanned<i64>>,
    pub(super) source: Text,
    pub(super) tags: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) on_doubt: Text,
    pub(super) charset: Text,
    pub(super) feedback_id: Text,
    pub(super) recipients: Option<Spanned<RecipientsTable>>,
    pub(super) content: Option<Spanned<ContentTable>>,
    #[serde(default)]
    pub(super) headers: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) list: Option<Spanned<ListTable>>,
    pub(super) tracking: Option<Spanned<TrackingTable>>,
    pub(super) sender: Option<Spanned<SenderTable>>,
    pub(super) schedule: Option<ScheduleTable>,
    #[serde(default)]
    pub(super) variant: Vec<Spanned<VariantTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecipientsTable {
    pub(super) file: Text,
    pub(super) address: Text,
    pub(super) on_bad_row: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ContentTable {
    pub(super) text: Text,
    pub(super) html: Text,
    pub(super) message: Text,
    #[serde(default)]
    pub(super) attachment: Vec<Spanned<AttachmentTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttachmentTable {
    pub(super) file: Text,
    pub(super) name: Text,
    #[serde(rename = "type")]
    pub(super) media_type: Text,
    pub(super) inline: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListTable {
    pub(super) id: Text,
    pub(super) label: Text,
    pub(super) unsubscribe: Text,
    pub(super) unsubscribe_mailto: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrackingTable {
    pub(super) url: Text,
    #[serde(default)]
    pub(super) opens: bool,
    #[serde(default)]
    pub(super) clicks: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SenderTable {
    pub(super) name: Text,
    pub(super) address: Text,
    pub(super) contact: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleTable {
    pub(super) start: Option<Spanned<toml::Value>>,
    pub(super) deliver_until: Option<Spanned<toml::Value>>,
    pub(super) expires: Text,
    pub(super) hours: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) days: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) time_zone: Text,
    pub(super) time_zone_field: Text,
    pub(super) spread: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VariantTable {
    pub(super) name: Text,
    pub(super) share: Option<Spanned<i64>>,
    pub(super) subject: Text,
    pub(super) text: Text,
    pub(super) html: Text,
}
