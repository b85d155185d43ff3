//! Packets of MQTT 3.1.1 (OASIS standard) to bytes and back.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The largest packet that is read.
const MAX_PACKET: usize = 100 << 20;

/// What a client sends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outgoing<'a> {
    Connect {
        client_id: &'a str,
        clean_session: bool,
        keep_alive: u16,
        user: Option<&'a str>,
        password: Option<&'a str>,
    },
    Publish(&'a Publish),
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    Subscribe {
        id: u16,
        filters: &'a [String],
        qos: u8,
    },
    Unsubscribe {
        id: u16,
        filter: &'a str,
    },
    Ping,
    Disconnect,
}

/// What a broker sends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    ConnAck { session_present: bool, code: u8 },
    Publish(Publish),
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    SubAck { id: u16, codes: Vec<u8> },
    UnsubAck(u16),
    Pong,
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// 0 with quality of service 0.
    pub(crate) id: u16,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Sent before.
    pub(crate) dup: bool,
}

impl Outgoing<'_> {
    /// Appends the packet.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Connect {
                client_id,
                clean_session,
                keep_alive,
                user,
                password,
            } => {
                let mut body = BytesMut::new();
                text(&mut body, "MQTT");
                body.put_u8(4);
                let flags = u8::from(user.is_some()) << 7
                    | u8::from(password.is_some()) << 6
                    | u8::from(*clean_session) << 1;
                body.put_u8(flags);
                body.put_u16(*keep_alive);
                text(&mut body, client_id);
                for login in [user, password].into_iter().flatten() {
                    text(&mut body, login);
                }
                packet(out, 0x10, &body);
            }
            Self::Publish(publish) => {
                let head = 0x30 | u8::from(publish.dup) << 3 | publish.qos << 1 | u8::from(publish.retain);
                let id = if publish.qos > 0 { 2 } else { 0 };
                out.put_u8(head);
                length(out, 2 + publish.topic.len() + id + publish.payload.len());
                text(out, &publish.topic);
                if publish.qos > 0 {
                    out.put_u16(publish.id);
                }
                out.extend_from_slice(&publish.payload);
            }
            Self::PubAck(id) => packet(out, 0x40, &id.to_be_bytes()),
            Self::PubRec(id) => packet(out, 0x50, &id.to_be_bytes()),
            Self::PubRel(id) => packet(out, 0x62, &id.to_be_bytes()),
            Self::PubComp(id) => packet(out, 0x70, &id.to_be_bytes()),
            Self::Subscribe { id, filters, qos } => {
                let mut body = BytesMut::new();
                body.put_u16(*id);
                for filter in *filters {
                    text(&mut body, filter);
                    body.put_u8(*qos);
                }
                packet(out, 0x82, &body);
            }
            Self::Unsubscribe { id, filter } => {
                let mut body = BytesMut::new();
                body.put_u16(*id);
                text(&mut body, filter);
                packet(out, 0xa2, &body);
            }
            Self::Ping => packet(out, 0xc0, &[]),
            Self::Disconnect => packet(out, 0xe0, &[]),
        }
    }
}

fn packet(out: &mut BytesMut, head: u8, body: &[u8]) {
    out.put_u8(head);
    length(out, body.len());
    out.extend_from_slice(body);
}

fn length(out: &mut BytesMut, mut length: usize) {
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        if length == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

/// Callers have checked that texts are no longer than 65535 bytes.
fn text(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.extend_from_slice(text.as_bytes());
}

/// Takes the next packet, if it is complete.
///
/// # Errors
/// If the bytes are no MQTT.
pub(crate) fn read(buffer: &mut BytesMut) -> Result<Option<Incoming>, String> {
    let (mut size, mut shift, mut used) = (0_usize, 0, 1);
    loop {
        let Some(byte) = buffer.get(used) else {
            return if used > 4 {
                Err(malformed("length"))
            } else {
                Ok(None)
            };
        };
        size |= usize::from(byte & 0x7f) << shift;
        used += 1;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if used > 4 {
            return Err(malformed("length"));
        }
    }
    if size > MAX_PACKET {
        return Err(format!("a packet of {size} bytes is too large"));
    }
    if buffer.len() < used + size {
        buffer.reserve(used + size - buffer.len());
        return Ok(None);
    }
    let head = buffer[0];
    buffer.advance(used);
    let body = buffer.split_to(size).freeze();
    decode(head, body).map(Some)
}

fn decode(head: u8, mut body: Bytes) -> Result<Incoming, String> {
    let id = |body: &mut Bytes| body.try_get_u16().map_err(|_| malformed("identifier"));
    match head >> 4 {
        2 if body.len() >= 2 => Ok(Incoming::ConnAck {
            session_present: body[0] & 1 == 1,
            code: body[1],
        }),
        3 => {
            let size = usize::from(id(&mut body)?);
            if body.len() < size {
                return Err(malformed("topic"));
            }
            let topic = String::from_utf8(body.split_to(size).to_vec()).map_err(|_| malformed("topic"))?;
            let qos = head >> 1 & 3;
            if qos == 3 {
                return Err(malformed("quality of service"));
            }
            let id = if qos > 0 { id(&mut body)? } else { 0 };
            Ok(Incoming::Publish(Publish {
                topic,
                payload: body,
                id,
                qos,
                retain: head & 1 == 1,
                dup: head & 8 == 8,
            }))
        }
        4 => Ok(Incoming::PubAck(id(&mut body)?)),
        5 => Ok(Incoming::PubRec(id(&mut body)?)),
        6 => Ok(Incoming::PubRel(id(&mut body)?)),
        7 => Ok(Incoming::PubComp(id(&mut body)?)),
        9 => Ok(Incoming::SubAck {
            id: id(&mut body)?,
            codes: body.to_vec(),
        }),
        11 => Ok(Incoming::UnsubAck(id(&mut body)?)),
        13 => Ok(Incoming::Pong),
        other => Err(format!("malformed packet: unexpected type {other}")),
    }
}

fn malformed(what: &str) -> String {
    format!("malformed packet: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_looks_as_the_standard_says() {
        let mut out = BytesMut::new();
        let connect = Outgoing::Connect {
            client_id: "c",
            clean_session: true,
            keep_alive: 30,
            user: Some("u"),
            password: None,
        };
        connect.write(&mut out);
        assert_eq!(
            out.as_ref(),
            b"\x10\x10\x00\x04MQTT\x04\x82\x00\x1e\x00\x01c\x00\x01u"
        );
    }

    proptest::proptest! {
        #[test]
        fn a_message_survives_the_wire(
            topic in "[a-z/é]{1,20}", payload: Vec<u8>, id in 1_u16.., qos in 0_u8..=2, retain: bool, dup: bool,
        ) {
            let publish = Publish {
                topic, payload: payload.into(), id: if qos == 0 { 0 } else { id }, qos, retain, dup,
            };
            let mut out = BytesMut::new();
            Outgoing::Publish(&publish).write(&mut out);
            let all = out.clone();
            for cut in 0..all.len() {
                assert_eq!(read(&mut BytesMut::from(&all[..cut])), Ok(None));
            }
            assert_eq!(read(&mut out), Ok(Some(Incoming::Publish(publish))));
            assert!(out.is_empty());
        }

        #[test]
        fn any_bytes_are_a_packet_or_refused(bytes: Vec<u8>) {
            let _ = read(&mut BytesMut::from(&bytes[..]));
        }
    }
}
