//! A sink that keeps what arrives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hikyaku::sink::{Inspector, SinkConfig, SinkHandle};

use super::Bed;

/// Every copy that arrived, by recipient, in the order in which they came.
pub type Arrived = Arc<Mutex<BTreeMap<String, Vec<Copy>>>>;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub reverse_path: String,
    pub content: Vec<u8>,
}

impl Copy {
    /// # Panics
    /// The content is not UTF-8.
    pub fn text(&self) -> &str {
        str::from_utf8(&self.content).expect("UTF-8")
    }
}

impl Bed {
    /// A sink as [`Bed::sink`] has it, which keeps them.
    pub fn keeping_sink(&self, script: &str) -> (SinkHandle, Arrived) {
        let arrived = Arrived::default();
        let inspector = Inspector::new({
            let arrived = Arc::clone(&arrived);
            move |arrival| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let copy = Copy {
                    reverse_path: text(arrival.reverse_path),
                    content: arrival.content.to_vec(),
                };
                let mut arrived = arrived.lock().expect("arrived");
                let copies = arrived.entry(text(arrival.recipient)).or_default();
                copies.push(copy);
            }
        });
        let sink = self.sink_with(SinkConfig {
            script: script.parse().expect("script"),
            inspector: Some(inspector),
            ..SinkConfig::default()
        });
        (sink, arrived)
    }
}
