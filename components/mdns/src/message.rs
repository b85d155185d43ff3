//! The messages: what is asked, announced and understood.

use std::net::{IpAddr, SocketAddr};

use simple_dns::rdata::{A, AAAA, PTR, RData, SRV, TXT};
use simple_dns::{
    CLASS, CharacterString, Label, Name, Packet, QCLASS, QTYPE, Question, ResourceRecord, TYPE,
};

/// How long receivers may keep a record, in seconds (RFC 6762 recommends it for host names).
const TTL: u32 = 120;

/// A name as its labels, without the root.
type Labels = Vec<String>;

/// What this sidecar announces.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    app_id: String,
    /// `<app id>.local`
    kind: Labels,
    /// `<host>:<pid>.<app id>.local`
    instance: Labels,
    /// `<host>.local`
    host: Labels,
    address: SocketAddr,
}

/// A sidecar that answered, or one that says goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) app_id: String,
    pub(crate) instance: String,
    /// `None`: it is leaving.
    pub(crate) address: Option<SocketAddr>,
}

/// A question, and whether the answer may come to the asker alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    name: Labels,
    pub(crate) unicast: bool,
}

/// A packet as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Query { id: u16, asked: Vec<Asked> },
    Answer(Vec<Found>),
}

impl Service {
    /// A service of this process.
    ///
    /// # Errors
    /// If a part is too long for a name: 63 bytes a label, 255 in all.
    pub(crate) fn new(app_id: &str, host: &str, pid: u32, address: SocketAddr) -> Result<Self, String> {
        let kind = kind(app_id)?;
        let host_labels = split(host);
        let with = |first: Labels, rest: &[String]| [first.as_slice(), rest].concat();
        let service = Self {
            app_id: app_id.to_owned(),
            instance: with(split(&format!("{host}:{pid}")), &kind),
            host: if host_labels
                .last()
                .is_some_and(|last| last.eq_ignore_ascii_case("local"))
            {
                host_labels
            } else {
                with(host_labels, &["local".to_owned()])
            },
            kind,
            address,
        };
        check(&service.instance)?;
        check(&service.host)?;
        if app_id.len() > 255 {
            return Err(format!("app id {app_id:?} is too long for multicast DNS"));
        }
        Ok(service)
    }

    /// Whether a question is about this service or this instance of it.
    pub(crate) fn is_asked(&self, asked: &Asked) -> bool {
        same(&asked.name, &self.kind) || same(&asked.name, &self.instance)
    }

    /// The answer to a browser: one pointer, and all that makes it useful.
    pub(crate) fn answer(&self, id: u16) -> Result<Vec<u8>, String> {
        let mut packet = Packet::new_reply(id);
        packet.set_flags(simple_dns::PacketFlag::AUTHORITATIVE_ANSWER);
        packet.answers.push(self.pointer(TTL));
        packet.additional_records = self.details(TTL)?;
        encode(&packet)
    }

    /// Told to all without being asked, at the start.
    pub(crate) fn announcement(&self) -> Result<Vec<u8>, String> {
        self.unsolicited(TTL)
    }

    /// Told to all at the end, so that nobody calls a dead sidecar.
    pub(crate) fn goodbye(&self) -> Result<Vec<u8>, String> {
        self.unsolicited(0)
    }

    fn unsolicited(&self, ttl: u32) -> Result<Vec<u8>, String> {
        let mut packet = Packet::new_reply(0);
        packet.set_flags(simple_dns::PacketFlag::AUTHORITATIVE_ANSWER);
        packet.answers = self.details(ttl)?;
        packet.answers.push(self.pointer(ttl));
        encode(&packet)
    }

    fn pointer(&self, ttl: u32) -> ResourceRecord<'_> {
        let data = RData::PTR(PTR(name(&self.instance)));
        ResourceRecord::new(name(&self.kind), CLASS::IN, ttl, data)
    }

    fn details(&self, ttl: u32) -> Result<Vec<ResourceRecord<'_>>, String> {
        let server = SRV {
            priority: 0,
            weight: 0,
            port: self.address.port(),
            target: name(&self.host),
        };
        let text = CharacterString::new(self.app_id.as_bytes()).map_err(|error| error.to_string())?;
        let address = match self.address.ip() {
            IpAddr::V4(ip) => RData::A(A { address: ip.into() }),
            IpAddr::V6(ip) => RData::AAAA(AAAA { address: ip.into() }),
        };
        let record = |labels, data| ResourceRecord::new(name(labels), CLASS::IN, ttl, data);
        Ok(vec![
            record(&self.instance, RData::SRV(server)),
            record(&self.instance, RData::TXT(TXT::new().with_char_string(text))),
            record(&self.host, address),
        ])
    }
}

/// The question for all sidecars of an app.
///
/// # Errors
/// If the app id is no name.
pub(crate) fn query(app_id: &str, id: u16) -> Result<Vec<u8>, String> {
    let kind = kind(app_id)?;
    let mut packet = Packet::new_query(id);
    packet.questions.push(Question::new(
        name(&kind),
        QTYPE::TYPE(TYPE::PTR),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    encode(&packet)
}

/// Reads a packet; `None` if it is none of ours or broken.
pub(crate) fn parse(bytes: &[u8]) -> Option<Message> {
    let packet = Packet::parse(bytes).ok()?;
    if packet.has_flags(simple_dns::PacketFlag::RESPONSE) {
        return Some(Message::Answer(found(&packet)));
    }
    // A question with an authority section is a probe for a name: nothing to be answered.
    if !packet.name_servers.is_empty() {
        return None;
    }
    let asked = packet.questions.iter().map(|question| Asked {
        name: labels(&question.qname),
        unicast: question.unicast_response,
    });
    Some(Message::Query {
        id: packet.id(),
        asked: asked.collect(),
    })
}

/// The sidecars a response tells about: those whose SRV, TXT and address are all in it.
fn found(packet: &Packet<'_>) -> Vec<Found> {
    let records = || {
        packet
            .answers
            .iter()
            .chain(&packet.name_servers)
            .chain(&packet.additional_records)
    };
    let mut all: Vec<Found> = Vec::new();
    for record in records() {
        let RData::SRV(server) = &record.rdata else {
            continue;
        };
        let instance = labels(&record.name);
        let text = records().find_map(|other| match &other.rdata {
            RData::TXT(text) if same(&labels(&other.name), &instance) => first_text(text),
            _ => None,
        });
        let Some(app_id) = text else { continue };
        if !belongs(&instance, &app_id) || all.iter().any(|f| f.instance == instance.join(".")) {
            continue;
        }
        let host = labels(&server.target);
        let ip = |want_v4: bool| {
            records().find_map(|other| match &other.rdata {
                RData::A(a) if want_v4 && same(&labels(&other.name), &host) => {
                    Some(IpAddr::V4(a.address.into()))
                }
                RData::AAAA(a) if !want_v4 && same(&labels(&other.name), &host) => {
                    Some(IpAddr::V6(a.address.into()))
                }
                _ => None,
            })
        };
        let address = ip(true)
            .or_else(|| ip(false))
            .map(|ip| SocketAddr::new(ip, server.port));
        let leaving = record.ttl == 0;
        if leaving || address.is_some() {
            all.push(Found {
                app_id,
                instance: instance.join("."),
                address: address.filter(|_| !leaving),
            });
        }
    }
    all
}

/// Whether an instance name is one of this app.
fn belongs(instance: &[String], app_id: &str) -> bool {
    let Ok(kind) = kind(app_id) else { return false };
    instance.len() > kind.len() && same(&instance[instance.len() - kind.len()..], &kind)
}

fn first_text(text: &TXT<'_>) -> Option<String> {
    let (key, value) = text.iter_raw().next()?;
    let mut bytes = key.to_vec();
    if let Some(value) = value {
        bytes.push(b'=');
        bytes.extend_from_slice(value);
    }
    String::from_utf8(bytes).ok()
}

fn kind(app_id: &str) -> Result<Labels, String> {
    let mut labels = split(app_id);
    labels.push("local".to_owned());
    check(&labels)?;
    Ok(labels)
}

fn split(text: &str) -> Labels {
    text.trim_matches('.').split('.').map(str::to_owned).collect()
}

fn check(labels: &[String]) -> Result<(), String> {
    let total: usize = labels.iter().map(|label| label.len() + 1).sum();
    let fits = labels.iter().all(|label| (1..=63).contains(&label.len()));
    if fits && total < 255 {
        return Ok(());
    }
    Err(format!(
        "{:?} is no name for multicast DNS: 1 to 63 bytes between dots, 253 in all",
        labels.join(".")
    ))
}

fn same(one: &[String], other: &[String]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.eq_ignore_ascii_case(b))
}

/// Labels were checked by us; those of DNS allow no `:`, which instance names have.
fn name(labels: &[String]) -> Name<'_> {
    let labels: Vec<Label<'_>> = labels
        .iter()
        .map(|label| Label::new_unchecked(label.as_bytes()))
        .collect();
    Name::new_with_labels(&labels)
}

fn labels(name: &Name<'_>) -> Labels {
    name.as_bytes()
        .map(|label| String::from_utf8_lossy(label).into_owned())
        .collect()
}

fn encode(packet: &Packet<'_>) -> Result<Vec<u8>, String> {
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn service(app_id: &str, address: &str) -> Service {
        Service::new(app_id, "my.host", 42, address.parse().unwrap()).unwrap()
    }

    fn answers(bytes: &[u8]) -> Vec<Found> {
        match parse(bytes) {
            Some(Message::Answer(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sidecar_understands_another() {
        for (app_id, address) in [
            ("orders", "192.0.2.1:5001"),
            ("orders.v2", "[2001:db8::1]:5002"),
            ("a=b_c", "127.0.0.1:1"),
        ] {
            let service = service(app_id, address);
            let question = query(app_id, 7).unwrap();
            let Some(Message::Query { id: 7, asked }) = parse(&question) else {
                panic!("no query");
            };
            assert_eq!(asked.len(), 1);
            assert!(service.is_asked(&asked[0]) && !asked[0].unicast);
            let expected = Found {
                app_id: app_id.into(),
                instance: format!("my.host:42.{app_id}.local"),
                address: Some(address.parse().unwrap()),
            };
            assert_eq!(
                answers(&service.answer(7).unwrap()),
                std::slice::from_ref(&expected)
            );
            assert_eq!(
                answers(&service.announcement().unwrap()),
                std::slice::from_ref(&expected)
            );
            let gone = Found {
                address: None,
                ..expected
            };
            assert_eq!(answers(&service.goodbye().unwrap()), [gone]);
        }
    }

    #[test]
    fn other_apps_are_not_asked() {
        let service = service("orders", "192.0.2.1:5001");
        for other in ["order", "orders2", "my.orders"] {
            let Some(Message::Query { asked, .. }) = parse(&query(other, 1).unwrap()) else {
                panic!("no query");
            };
            assert!(!service.is_asked(&asked[0]), "{other}");
        }
    }

    /// What grandcat/zeroconf sends in a Go sidecar: the question repeated, names uncompressed, no authority bit.
    fn go_answer(app_id: &str, text: &str) -> Vec<u8> {
        let labels = |names: &[&str]| {
            let mut out = Vec::new();
            for name in names {
                out.push(u8::try_from(name.len()).unwrap());
                out.extend_from_slice(name.as_bytes());
            }
            out.push(0);
            out
        };
        let kind = labels(&[app_id, "local"]);
        let instance = labels(&["gohost:1234", app_id, "local"]);
        let host = labels(&["gohost", "local"]);
        let mut out = vec![0x12, 0x34, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 3];
        out.extend_from_slice(&kind);
        out.extend_from_slice(&[0, 12, 0, 1]);
        let mut record = |name: &[u8], kind: u8, data: &[u8]| {
            out.extend_from_slice(name);
            out.extend_from_slice(&[0, kind, 0, 1, 0, 0, 0x0c, 0x80]); // class IN, 3200 s
            out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
            out.extend_from_slice(data);
        };
        record(&kind, 12, &instance);
        record(&instance, 33, &[&[0, 0, 0, 0, 0x13, 0x89][..], &host].concat());
        let text_data = [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
        record(&instance, 16, &text_data);
        record(&host, 1, &[192, 0, 2, 7]);
        out
    }

    #[test]
    fn a_go_sidecar_is_understood() {
        assert_eq!(
            answers(&go_answer("orders", "orders")),
            [Found {
                app_id: "orders".into(),
                instance: "gohost:1234.orders.local".into(),
                address: Some("192.0.2.7:5001".parse().unwrap()),
            }]
        );
    }

    #[test]
    fn a_service_whose_text_is_another_app_is_no_sidecar() {
        assert!(answers(&go_answer("orders", "stock")).is_empty());
        assert!(
            answers(&go_answer("orders", "Orders")).len() == 1,
            "names ignore case, texts do not"
        );
        assert_eq!(answers(&go_answer("orders", "Orders"))[0].app_id, "Orders");
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let address = "192.0.2.1:1".parse().unwrap();
        for app_id in ["", "a..b", &"x".repeat(64), &["x"; 130].join(".")] {
            assert!(Service::new(app_id, "h", 1, address).is_err(), "{app_id}");
            assert!(query(app_id, 1).is_err(), "{app_id}");
        }
        assert!(Service::new("ok", &"h".repeat(64), 1, address).is_err());
    }

    proptest! {
        #[test]
        fn no_packet_makes_the_parser_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            parse(&bytes);
        }

        #[test]
        fn a_damaged_packet_is_survived(position in 0usize..150, byte in any::<u8>()) {
            let mut bytes = go_answer("orders", "orders");
            let length = bytes.len();
            bytes[position % length] = byte;
            parse(&bytes);
            parse(&bytes[..position % length]);
        }
    }
}
