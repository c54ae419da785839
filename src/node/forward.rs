//! What a node asks of its leader for a client: a write, or to hand over. As bytes: one kind byte and the rest.

use bytes::{BufMut, Bytes, BytesMut};

use crate::kv::{self, Command};
use crate::raft::NodeId;

/// What is asked of the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A write.
    Write(Command),
    /// Hand leadership to this voter, or to the most up-to-date one.
    Transfer(Option<NodeId>),
}

const WRITE: u8 = 1;
const TRANSFER: u8 = 2;

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
                let target = bytes
                    .get(1..)
                    .and_then(|rest| rest.try_into().ok())
                    .map(u64::from_be_bytes);
                let target = target.ok_or("a transfer names its target in 8 bytes")?;
                Ok(Order::Transfer(Some(NodeId(target)).filter(|id| id.0 > 0)))
            }
            Some(kind) => Err(format!("orders of kind {kind} are not known")),
            None => Err("an order of no bytes".into()),
        }
    }
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
        ];
        for order in orders {
            assert_eq!(Order::decode(&order.encode()), Ok(order));
        }
    }

    #[test]
    fn bytes_that_are_no_order_are_refused() {
        for bytes in [&b""[..], &[9], &[TRANSFER, 1], &[WRITE, 255, 255]] {
            assert!(
                Order::decode(&Bytes::copy_from_slice(bytes)).is_err(),
                "{bytes:?}"
            );
        }
    }
}
