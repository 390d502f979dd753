//! Answers written by hand, byte by byte, so that tests do not check a library with itself.

use std::net::{IpAddr, Ipv4Addr};

use super::wire::Kind;

/// A header and one question, nothing else: QR, RD and RA set.
pub(crate) fn packet(id: u16, name: &str, kind: Kind) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    put_name(&mut bytes, name);
    bytes.extend(type_of(kind).to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// An answer under construction; sections must be filled in order.
pub(crate) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(id: u16, name: &str, kind: Kind) -> Self {
        Self {
            bytes: packet(id, name, kind),
        }
    }

    /// An answer to this query packet: id, question and its case are copied.
    pub(crate) fn to(query: &[u8]) -> Self {
        let name_end = query[12..].iter().position(|b| *b == 0).unwrap() + 13;
        let mut bytes = query[..name_end + 4].to_vec();
        bytes[2..4].copy_from_slice(&[0x81, 0x80]);
        bytes[6..12].fill(0);
        Self { bytes }
    }

    pub(crate) fn code(mut self, code: u8) -> Self {
        self.bytes[3] |= code;
        self
    }

    pub(crate) fn truncated(mut self) -> Self {
        self.bytes[2] |= 2;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    pub(crate) fn mx(&mut self, owner: &str, ttl: u32, preference: u16, host: &str) {
        let mut data = preference.to_be_bytes().to_vec();
        put_name(&mut data, host);
        self.raw(owner, 15, ttl, &data);
    }

    pub(crate) fn cname(&mut self, owner: &str, ttl: u32, target: &str) {
        let mut data = Vec::new();
        put_name(&mut data, target);
        self.raw(owner, 5, ttl, &data);
    }

    pub(crate) fn a(&mut self, owner: &str, ttl: u32, address: Ipv4Addr) {
        self.raw(owner, 1, ttl, &address.octets());
    }

    pub(crate) fn address(&mut self, owner: &str, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.a(owner, ttl, v4),
            IpAddr::V6(v6) => self.raw(owner, 28, ttl, &v6.octets()),
        }
    }

    pub(crate) fn raw(&mut self, owner: &str, record_type: u16, ttl: u32, data: &[u8]) {
        self.put(6, owner, record_type, 1, ttl, data);
    }

    pub(crate) fn soa(&mut self, zone: &str, ttl: u32, minimum: u32) {
        let mut data = Vec::new();
        put_name(&mut data, "ns.test");
        put_name(&mut data, "hostmaster.test");
        for number in [1, 2, 3, 4, minimum] {
            data.extend(number.to_be_bytes());
        }
        self.put(8, zone, 6, 1, ttl, &data);
    }

    pub(crate) fn opt(&mut self, high_code: u8) {
        self.put(10, "", 41, 1232, u32::from(high_code) << 24, &[]);
    }

    fn put(&mut self, count_at: usize, owner: &str, kind: u16, class: u16, ttl: u32, data: &[u8]) {
        let count = u16::from_be_bytes([self.bytes[count_at], self.bytes[count_at + 1]]) + 1;
        self.bytes[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
        // The question's own name as a pointer, as servers do it.
        let mut question = Vec::new();
        put_name(&mut question, owner);
        if self.bytes[12..].starts_with(&question) && !owner.is_empty() {
            self.bytes.extend([0xc0, 12]);
        } else {
            self.bytes.extend(question);
        }
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(class.to_be_bytes());
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes.extend((data.len() as u16).to_be_bytes());
        self.bytes.extend(data);
    }
}

pub(crate) const fn type_of(kind: Kind) -> u16 {
    match kind {
        Kind::A => 1,
        Kind::Mx => 15,
        Kind::Aaaa => 28,
        Kind::Txt => 16,
        Kind::Ptr => 12,
    }
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
}
