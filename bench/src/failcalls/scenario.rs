//! What is dropped in each run: everything an engine does with a file happens to some of it.

/// One file of the scenario and what its receipt must say.
pub(super) struct Drop {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) recipients: Vec<String>,
    pub(super) delivered: u64,
    pub(super) bounced: u64,
}

/// All recipients, and whether the receiver refuses them.
pub(super) fn recipients() -> Vec<(String, bool)> {
    (0..MESSAGES).flat_map(of_message).collect()
}

/// Recipients of one message, and whether the receiver refuses them.
fn of_message(message: u64) -> Vec<(String, bool)> {
    let domain = message % 3;
    let mut all = vec![(format!("m{message}@d{domain}.test"), false)];
    match message % 6 {
        1 => all.push((format!("defer-m{message}@d{domain}.test"), false)),
        3 => all.push((format!("reject-m{message}@d{domain}.test"), true)),
        5 => all.push((format!("n{message}@d9.test"), false)),
        _ => {}
    }
    all
}

/// Single messages and merges of four; enough bytes for several segments.
pub(super) fn scenario() -> Vec<Drop> {
    let mut files = Vec::new();
    let mut message = 0;
    while message < MESSAGES {
        let single = files.len() % 2 == 0;
        let count = if single { 1 } else { 4 }.min(MESSAGES - message);
        let mut file = Drop {
            name: format!(
                "f{:02}.{}",
                files.len(),
                if single { "eml" } else { "bsmtp" }
            ),
            bytes: Vec::new(),
            recipients: Vec::new(),
            delivered: 0,
            bounced: 0,
        };
        for number in message..message + count {
            let to = of_message(number);
            let refused = to.iter().filter(|(_, refused)| *refused).count() as u64;
            file.bounced += refused;
            file.delivered += to.len() as u64 - refused;
            one_message(number, &to, single, &mut file.bytes);
            file.recipients.extend(to.into_iter().map(|(to, _)| to));
        }
        message += count;
        files.push(file);
    }
    files
}

fn one_message(number: u64, to: &[(String, bool)], single: bool, out: &mut Vec<u8>) {
    let mut content =
        format!("From: <news@out.test>\r\nSubject: {number}\r\nX-Hikyaku-Seq: {number}\r\n\r\n");
    while content.len() < 7000 {
        content.push_str(&format!("line {} of message {number}\r\n", content.len()));
    }
    let mut text = String::new();
    if single {
        text.push_str("X-Sender: news@out.test\r\n");
        for (recipient, _) in to {
            text.push_str(&format!("X-Receiver: {recipient}\r\n"));
        }
        text.push_str(&content);
    } else {
        text.push_str("MAIL FROM:<news@out.test>\r\n");
        for (recipient, _) in to {
            text.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        text.push_str(&format!("DATA\r\n{content}.\r\n"));
    }
    out.extend_from_slice(text.as_bytes());
}

const MESSAGES: u64 = 26;
