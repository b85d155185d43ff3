//! Messages of `dapr.proto.placement.v1`, encoded so that many streams can share them.
//!
//! A table goes to every sidecar of a namespace. It is put together from hosts that were encoded when they reported,
//! into one buffer, with the five bytes in front of it that gRPC wants; every stream sends that buffer.

use bytes::{BufMut as _, Bytes, BytesMut};
use outrigger_proto::placement::v1::{Host, HostOperation, PlacementOrder};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// `Host.operation` of a request for a lease; see docs/ACTORS.md. Dapr's enum ends at 4.
pub const LEASE: i32 = 5;

/// One of the three steps of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Remember that a table is coming.
    Lock,
    /// Take this table, let go of what moves.
    Update,
    /// Go on by the new table.
    Unlock,
}

/// What a message of a sidecar asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Register, or change what is hosted.
    Report,
    /// Acknowledge a step; `None` stands for the one that is under way (old clients).
    Ack(Option<Step>),
    /// Prolong the lease.
    Lease,
    /// A number that no version of the protocol knows.
    Unknown(i32),
}

/// What `host` asks for.
#[must_use]
pub fn operation(host: &Host) -> Operation {
    match HostOperation::try_from(host.operation) {
        Ok(HostOperation::Unknown) => Operation::Ack(None),
        Ok(HostOperation::Report) => Operation::Report,
        Ok(HostOperation::Lock) => Operation::Ack(Some(Step::Lock)),
        Ok(HostOperation::Update) => Operation::Ack(Some(Step::Update)),
        Ok(HostOperation::Unlock) => Operation::Ack(Some(Step::Unlock)),
        Err(_) if host.operation == LEASE => Operation::Lease,
        Err(_) => Operation::Unknown(host.operation),
    }
}

/// What the service tells one sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `lock` of this version.
    Lock(u64),
    /// `update` of this version, complete and framed, from [`Table::order`].
    Update(u64, Bytes),
    /// `change` of this version, complete and framed, from [`Table::change`].
    Change(u64, Bytes),
    /// `unlock` of this version.
    Unlock(u64),
    /// The lease asked for with this number is granted.
    Lease(u64),
}

impl Order {
    /// The message with gRPC's frame around it.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        let (operation, version) = match self {
            Self::Lock(version) => ("lock", version),
            Self::Update(_, frame) | Self::Change(_, frame) => return frame.clone(),
            Self::Unlock(version) => ("unlock", version),
            Self::Lease(number) => ("lease", number),
        };
        let order = PlacementOrder {
            tables: None,
            operation: operation.to_owned(),
            version: *version,
        };
        let length = order.encoded_len();
        let mut frame = framed(length);
        frame.extend_from_slice(&order.encode_to_vec());
        frame.freeze()
    }
}

/// An empty buffer with the head of an uncompressed gRPC message of `length` bytes.
fn framed(length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    // Tables are kept far below 4 GiB by the limits on hosts and their types.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame
}

/// Puts a table together from parts that were encoded before.
#[derive(Debug)]
pub struct Table {
    version: u64,
    replication_factor: i64,
    parts: Vec<Bytes>,
}

impl Table {
    /// A table without entries.
    #[must_use]
    pub const fn new(version: u64, replication_factor: i64) -> Self {
        Self {
            version,
            replication_factor,
            parts: Vec::new(),
        }
    }

    /// Adds an actor type, encoded by [`type_entry`].
    pub fn push(&mut self, part: Bytes) {
        self.parts.push(part);
    }

    /// The `update` order with this table, framed.
    #[must_use]
    pub fn order(&self) -> Bytes {
        self.framed("update")
    }

    /// The `change` order with these types, framed: between our service and our sidecars only (docs/ACTORS.md).
    #[must_use]
    pub fn change(&self) -> Bytes {
        self.framed("change")
    }

    fn framed(&self, operation: &str) -> Bytes {
        let mut tail = Vec::with_capacity(32);
        put_bytes(&mut tail, 2, self.version.to_string().as_bytes());
        if self.replication_factor != 0 {
            encode_key(4, WireType::Varint, &mut tail);
            encode_varint(self.replication_factor.cast_unsigned(), &mut tail);
        }
        let tables = self.parts.iter().map(Bytes::len).sum::<usize>() + tail.len();
        let order = PlacementOrder {
            tables: None,
            operation: operation.to_owned(),
            version: self.version,
        }
        .encode_to_vec();
        let mut frame = framed(1 + encoded_len_varint(tables as u64) + tables + order.len());
        encode_key(1, WireType::LengthDelimited, &mut frame);
        encode_varint(tables as u64, &mut frame);
        for part in &self.parts {
            frame.extend_from_slice(part);
        }
        frame.extend_from_slice(&tail);
        frame.extend_from_slice(&order);
        frame.freeze()
    }
}

/// The entry of one actor type in `PlacementTables.entries`, of hosts from [`host_entry`].
pub fn type_entry<'a>(actor_type: &str, hosts: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let table: usize = hosts.clone().map(Bytes::len).sum();
    let inner = field_len(actor_type.len()) + field_len(table);
    let mut entry = Vec::with_capacity(field_len(inner));
    encode_key(1, WireType::LengthDelimited, &mut entry);
    encode_varint(inner as u64, &mut entry);
    put_bytes(&mut entry, 1, actor_type.as_bytes());
    encode_key(2, WireType::LengthDelimited, &mut entry);
    encode_varint(table as u64, &mut entry);
    for host in hosts {
        entry.extend_from_slice(host);
    }
    entry.into()
}

/// The entry of one host in `PlacementTable.load_map`.
#[must_use]
pub fn host_entry(host: &Host) -> Bytes {
    entry(&host.name, host)
}

/// The same with nothing but what our sidecars use: a host of a hundred types is told a hundred times in a table, and lists
/// them each time. Its address is the key.
#[must_use]
pub fn slim_entry(host: &Host) -> Bytes {
    let slim = Host {
        id: host.id.clone(),
        ..Host::default()
    };
    entry(&host.name, &slim)
}

fn entry(key: &str, host: &Host) -> Bytes {
    let encoded = host.encode_to_vec();
    let inner = field_len(key.len()) + field_len(encoded.len());
    let mut entry = Vec::with_capacity(field_len(inner));
    encode_key(3, WireType::LengthDelimited, &mut entry);
    encode_varint(inner as u64, &mut entry);
    put_bytes(&mut entry, 1, key.as_bytes());
    put_bytes(&mut entry, 2, &encoded);
    entry.into()
}

/// The length of a length-delimited field with a number below 16.
fn field_len(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

fn put_bytes(buffer: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, buffer);
    encode_varint(content.len() as u64, buffer);
    buffer.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(frame: &Bytes) -> PlacementOrder {
        assert_eq!(frame[0], 0, "not compressed");
        let length = u32::from_be_bytes(frame[1..5].try_into().expect("four bytes"));
        assert_eq!(length as usize, frame.len() - 5);
        PlacementOrder::decode(&frame[5..]).expect("a message")
    }

    #[test]
    #[allow(deprecated, reason = "sidecars read the deprecated version")]
    fn a_table_of_encoded_parts_reads_as_the_message_it_stands_for() {
        let hosts: Vec<Host> = (0..3)
            .map(|n| Host {
                name: format!("10.0.0.{n}:50002"),
                id: "app".into(),
                namespace: "shop".into(),
                entities: vec!["cat".into(), "x".repeat(300)],
                operation: 1,
                ..Host::default()
            })
            .collect();
        let entries: Vec<Bytes> = hosts.iter().map(host_entry).collect();
        let mut table = Table::new(7, 100);
        table.push(type_entry("cat", entries.iter()));
        table.push(type_entry(&"x".repeat(300), entries[..1].iter()));
        table.push(type_entry("", [].iter()));
        let order = decoded(&Order::Update(7, table.order()).frame());
        assert_eq!((order.operation.as_str(), order.version), ("update", 7));
        let tables = order.tables.expect("tables");
        assert_eq!((tables.version.as_str(), tables.replication_factor), ("7", 100));
        assert_eq!(tables.entries.len(), 3);
        assert_eq!(tables.entries["cat"].load_map.len(), 3);
        for host in &hosts {
            assert_eq!(&tables.entries["cat"].load_map[&host.name], host);
        }
    }

    #[test]
    fn the_other_orders_carry_their_number() {
        for (order, operation) in [
            (Order::Lock(3), "lock"),
            (Order::Unlock(3), "unlock"),
            (Order::Lease(3), "lease"),
        ] {
            let message = decoded(&order.frame());
            assert_eq!((message.operation.as_str(), message.version), (operation, 3));
            assert!(message.tables.is_none());
        }
    }
}
