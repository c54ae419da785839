//! What a node asks of its leader for a client: a write, to hand over, to change the membership, to compare all
//! states. And what a leader asks of a member: its hash. As bytes: one kind byte and the rest.

use bytes::{BufMut, Bytes, BytesMut};

use super::request::MembershipChange;
use crate::kv::{self, Command};
use crate::raft::{Addresses, Index, NodeId};

/// What is asked of the leader, or by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A write.
    Write(Command),
    /// Hand leadership to this voter, or to the most up-to-date one.
    Transfer(Option<NodeId>),
    /// Change the membership.
    Change(MembershipChange),
    /// Compare the states of all members.
    Verify,
    /// Asked of any member: what does the state hash to at this index?
    HashAt(Index),
}

const WRITE: u8 = 1;
const TRANSFER: u8 = 2;
const ADD: u8 = 3;
const PROMOTE: u8 = 4;
const REMOVE: u8 = 5;
const VERIFY: u8 = 6;
const HASH_AT: u8 = 7;

/// The longest address in an order.
const ADDRESS_MAX_BYTES: usize = 1024;

impl Order {
    /// The order as bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        match self {
            Order::Write(command) => {
                bytes.put_u8(WRITE);
                bytes.put(kv::encode_command(command));
            }
            Order::Transfer(target) => {
                bytes.put_u8(TRANSFER);
                bytes.put_u64(target.map_or(0, |id| id.0));
            }
            Order::Change(MembershipChange::Add { id, addresses, voter }) => {
                bytes.put_u8(ADD);
                bytes.put_u64(id.0);
                bytes.put_u8(u8::from(*voter));
                bytes.put_slice(addresses.peer.as_bytes());
                bytes.put_u8(b' ');
                bytes.put_slice(addresses.client.as_bytes());
            }
            Order::Change(MembershipChange::Promote(id)) => {
                bytes.put_u8(PROMOTE);
                bytes.put_u64(id.0);
            }
            Order::Change(MembershipChange::Remove(id)) => {
                bytes.put_u8(REMOVE);
                bytes.put_u64(id.0);
            }
            Order::Verify => bytes.put_u8(VERIFY),
            Order::HashAt(index) => {
                bytes.put_u8(HASH_AT);
                bytes.put_u64(index.0);
            }
        }
        bytes.freeze()
    }

    /// The order from bytes; the reason where they are none.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Order, String> {
        match bytes.first() {
            Some(&WRITE) => kv::decode_command(bytes.slice(1..))
                .map(Order::Write)
                .map_err(|error| error.to_string()),
            Some(&TRANSFER) => {
                let target = number(bytes)?;
                Ok(Order::Transfer(Some(NodeId(target)).filter(|id| id.0 > 0)))
            }
            Some(&ADD) => add(bytes.get(1..).unwrap_or_default()),
            Some(&PROMOTE) => Ok(Order::Change(MembershipChange::Promote(NodeId(number(bytes)?)))),
            Some(&REMOVE) => Ok(Order::Change(MembershipChange::Remove(NodeId(number(bytes)?)))),
            Some(&VERIFY) => Ok(Order::Verify),
            Some(&HASH_AT) => Ok(Order::HashAt(Index(number(bytes)?))),
            Some(kind) => Err(format!("orders of kind {kind} are not known")),
            None => Err("an order of no bytes".into()),
        }
    }
}

/// Whether the order is a write.
pub fn is_write(order: &Bytes) -> bool {
    order.first() == Some(&WRITE)
}

/// Whether any member answers the order, not the leader alone.
pub fn is_for_all(order: &Bytes) -> bool {
    order.first() == Some(&HASH_AT)
}

/// The number that is all of an order behind its kind.
fn number(order: &Bytes) -> Result<u64, String> {
    let number = order.get(1..).and_then(|rest| rest.try_into().ok());
    number
        .map(u64::from_be_bytes)
        .ok_or_else(|| "an order of this kind has a number of 8 bytes".into())
}

fn add(bytes: &[u8]) -> Result<Order, String> {
    let refused = || "RAFT ADD names a node and its two addresses".to_owned();
    let (id, rest) = bytes.split_first_chunk::<8>().ok_or_else(refused)?;
    let (voter, rest) = rest.split_first().ok_or_else(refused)?;
    if rest.len() > ADDRESS_MAX_BYTES {
        return Err(refused());
    }
    let text = std::str::from_utf8(rest).map_err(|_| refused())?;
    let (peer, client) = text.split_once(' ').ok_or_else(refused)?;
    let id = NodeId(u64::from_be_bytes(*id));
    if id.0 == 0 || peer.is_empty() || client.is_empty() {
        return Err(refused());
    }
    let addresses = Addresses {
        peer: peer.into(),
        client: client.into(),
    };
    let voter = *voter != 0;
    Ok(Order::Change(MembershipChange::Add { id, addresses, voter }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_way() {
        let orders = [
            Order::Write(Command::FlushAll),
            Order::Write(Command::Increment {
                key: Bytes::from_static(b"k"),
                by: -3,
            }),
            Order::Transfer(None),
            Order::Transfer(Some(NodeId(7))),
            Order::Change(MembershipChange::Add {
                id: NodeId(4),
                addresses: Addresses {
                    peer: "h:1".into(),
                    client: "h:2".into(),
                },
                voter: true,
            }),
            Order::Change(MembershipChange::Promote(NodeId(4))),
            Order::Change(MembershipChange::Remove(NodeId(4))),
            Order::Verify,
            Order::HashAt(Index(9)),
        ];
        for order in orders {
            assert_eq!(Order::decode(&order.encode()), Ok(order));
        }
    }

    #[test]
    fn bytes_that_are_no_order_are_refused() {
        for bytes in [
            &b""[..],
            &[9],
            &[TRANSFER, 1],
            &[WRITE, 255, 255],
            &[REMOVE],
            &[ADD, 1],
            &[ADD, 0, 0, 0, 0, 0, 0, 0, 4, 0, b'h', b' '],
        ] {
            assert!(
                Order::decode(&Bytes::copy_from_slice(bytes)).is_err(),
                "{bytes:?}"
            );
        }
    }
}
