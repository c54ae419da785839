//! The first two frames of a connection: which version, which cluster, which node. What does not fit is
//! refused with a reason that says what to do, because a human will read it.
//!
//! Nothing else is read or written before both sides have agreed, so no message of another cluster, or
//! meant for another node, reaches the core (traps 3.39, 3.45). While one side does not know the cluster's
//! id, the name decides alone. Who is let in, and with which data folder, is in `members`.
//!
//! Missing: without TLS a node id is believed.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Options;
use super::codec::FrameReader;
use super::members::{Claim, Members};
use crate::raft::NodeId;
use crate::wire::peer::{
    ClusterId, Frame, HANDSHAKE_MAX_BYTES, Hello, VERSION_MAX, VERSION_MIN, Welcome, decode, encode,
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The socket failed or the other side hung up.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The handshake took too long.
    #[error("no handshake in time")]
    TimedOut,
    /// The other side does not speak as it should.
    #[error("it does not speak the peer protocol: {0}")]
    Malformed(String),
    /// The other side refuses us.
    #[error("it refuses us: {0}")]
    RefusedByPeer(String),
    /// We refuse the other side.
    #[error("refused: {0}")]
    Refused(String),
    /// We refuse the other side, for it is not the data folder that its node had.
    #[error("refused: {reason}")]
    Wiped {
        /// The node that it says it is.
        peer: NodeId,
        /// Why, in words.
        reason: String,
    },
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) cluster_name: String,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) node_id: NodeId,
    pub(super) incarnation: u64,
    pub(super) frame_max_bytes: u32,
    pub(super) members: Arc<Members>,
}

impl Identity {
    /// What `options` say, with the cluster's id and members as they are known now.
    pub(super) fn new(options: &Options, cluster_id: Option<ClusterId>, members: Arc<Members>) -> Identity {
        Identity {
            cluster_name: options.cluster_name.clone(),
            cluster_id,
            node_id: options.node_id,
            incarnation: options.incarnation,
            frame_max_bytes: options.frame_max_bytes,
            members,
        }
    }

    fn hello(&self, to: NodeId) -> Hello {
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            cluster_name: self.cluster_name.clone(),
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            incarnation: self.incarnation,
            to_node_id: to,
            frame_max_bytes: self.frame_max_bytes,
            membership_index: self.members.index(),
        }
    }

    /// The answer to `hello`, or why there is none but a refusal.
    fn welcome(&self, hello: &Hello) -> Result<Welcome, String> {
        let (own, theirs) = (self.node_id, hello.node_id);
        if hello.version_min > VERSION_MAX || hello.version_max < VERSION_MIN {
            return Err(format!(
                "node {own} speaks versions {VERSION_MIN} to {VERSION_MAX} of the peer protocol and \
                 node {theirs} speaks {} to {}: upgrade the older one",
                hello.version_min, hello.version_max
            ));
        }
        if hello.cluster_name != self.cluster_name {
            return Err(format!(
                "node {own} here is of cluster {:?} and node {theirs} is of cluster {:?}: check cluster.name \
                 and the addresses in cluster.members on both",
                self.cluster_name, hello.cluster_name
            ));
        }
        self.check_cluster_id(hello.cluster_id, theirs)?;
        if hello.to_node_id != own {
            return Err(format!(
                "node {theirs} meant to reach node {} and reached node {own}: check the addresses of both in \
                 cluster.members",
                hello.to_node_id
            ));
        }
        if theirs == own {
            return Err(format!("both sides are node {own}: check node.id on both"));
        }
        self.check_member(&hello.claim())?;
        Ok(Welcome {
            version: VERSION_MAX.min(hello.version_max),
            cluster_id: self.cluster_id,
            node_id: own,
            incarnation: self.incarnation,
            frame_max_bytes: self.frame_max_bytes,
            membership_index: self.members.index(),
        })
    }

    /// Whether `welcome` comes from `peer`, whom we dialed.
    fn check_welcome(&self, welcome: &Welcome, peer: NodeId) -> Result<(), String> {
        if welcome.node_id != peer {
            return Err(format!(
                "reached node {} instead of node {peer}: check the addresses of both in cluster.members",
                welcome.node_id
            ));
        }
        if !(VERSION_MIN..=VERSION_MAX).contains(&welcome.version) {
            return Err(format!(
                "it chose version {} of the peer protocol, which was not offered",
                welcome.version
            ));
        }
        self.check_cluster_id(welcome.cluster_id, peer)?;
        self.check_member(&welcome.claim())
    }

    fn check_member(&self, claim: &Claim) -> Result<(), String> {
        self.members.objection(claim).map_or(Ok(()), Err)
    }

    /// The error for `reason`, for which the server that claims this was refused.
    fn refused(&self, claim: &Claim, reason: String) -> HandshakeError {
        let peer = claim.node_id;
        if self.members.refuses_wiped(claim) {
            HandshakeError::Wiped { peer, reason }
        } else {
            HandshakeError::Refused(reason)
        }
    }

    fn check_cluster_id(&self, theirs: Option<ClusterId>, peer: NodeId) -> Result<(), String> {
        if !cluster_ids_differ(self.cluster_id, theirs) {
            return Ok(());
        }
        Err(format!(
            "node {} and node {peer} are of two clusters that are both named {:?} (ids {} and {}): a \
             node that is to change cluster needs an empty data folder; otherwise check the addresses in \
             cluster.members",
            self.node_id,
            self.cluster_name,
            hex(self.cluster_id),
            hex(theirs)
        ))
    }
}

impl Hello {
    fn claim(&self) -> Claim {
        Claim {
            node_id: self.node_id,
            incarnation: self.incarnation,
            membership_index: self.membership_index,
        }
    }
}

impl Welcome {
    fn claim(&self) -> Claim {
        Claim {
            node_id: self.node_id,
            incarnation: self.incarnation,
            membership_index: self.membership_index,
        }
    }
}

/// Whether these cannot be one cluster; a side that does not know its id fits any.
pub(super) fn cluster_ids_differ(ours: Option<ClusterId>, theirs: Option<ClusterId>) -> bool {
    matches!((ours, theirs), (Some(ours), Some(theirs)) if ours != theirs)
}

fn hex(id: Option<ClusterId>) -> String {
    id.map_or_else(
        || "unknown".to_owned(),
        |id| format!("{:032x}", u128::from_be_bytes(id)),
    )
}

/// The dialing side: says who we are and hears who is there.
pub(super) async fn dial(
    us: &Identity,
    peer: NodeId,
    stream: &mut TcpStream,
    reader: &mut FrameReader,
) -> Result<Welcome, HandshakeError> {
    write_frame(stream, &Frame::Hello(us.hello(peer))).await?;
    match read_frame(stream, reader).await? {
        Frame::Welcome(welcome) => {
            us.check_welcome(&welcome, peer)
                .map_err(|reason| us.refused(&welcome.claim(), reason))?;
            Ok(welcome)
        }
        Frame::Refused { reason } => Err(HandshakeError::RefusedByPeer(reason)),
        other => Err(HandshakeError::Malformed(format!(
            "{} where Welcome was due",
            other.name()
        ))),
    }
}

/// The side that was dialed: hears who is there and agrees, or says why not.
pub(super) async fn accept(
    us: &Identity,
    stream: &mut TcpStream,
    reader: &mut FrameReader,
) -> Result<Hello, HandshakeError> {
    let hello = match read_frame(stream, reader).await? {
        Frame::Hello(hello) => hello,
        other => {
            return Err(HandshakeError::Malformed(format!(
                "{} where Hello was due",
                other.name()
            )));
        }
    };
    match us.welcome(&hello) {
        Ok(welcome) => write_frame(stream, &Frame::Welcome(welcome)).await?,
        Err(reason) => {
            write_frame(
                stream,
                &Frame::Refused {
                    reason: reason.clone(),
                },
            )
            .await?;
            stream.shutdown().await?;
            return Err(us.refused(&hello.claim(), reason));
        }
    }
    Ok(hello)
}

async fn write_frame(stream: &mut TcpStream, frame: &Frame) -> Result<(), HandshakeError> {
    let mut buffer = BytesMut::new();
    encode(0, frame, HANDSHAKE_MAX_BYTES, &mut buffer)
        .map_err(|error| HandshakeError::Malformed(error.to_string()))?;
    Ok(stream.write_all(&buffer).await?)
}

async fn read_frame(stream: &mut TcpStream, reader: &mut FrameReader) -> Result<Frame, HandshakeError> {
    let malformed = |reason: String| HandshakeError::Malformed(reason);
    loop {
        if let Some(bytes) = reader.next().map_err(|error| malformed(error.to_string()))? {
            let (_, frame) = decode(bytes).map_err(|error| malformed(error.to_string()))?;
            return Ok(frame);
        }
        if reader.fill(stream).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> Identity {
        Identity::new(&Options::new("prod", NodeId(id)), None, Arc::default())
    }

    fn of_cluster(id: u64, cluster: u8) -> Identity {
        Identity {
            cluster_id: Some([cluster; 16]),
            ..node(id)
        }
    }

    #[test]
    fn two_nodes_of_one_cluster_agree() {
        for (a, b) in [
            (node(1), node(2)),
            (of_cluster(1, 7), node(2)),
            (node(1), of_cluster(2, 7)),
            (of_cluster(1, 7), of_cluster(2, 7)),
        ] {
            let welcome = b.welcome(&a.hello(NodeId(2))).unwrap();
            a.check_welcome(&welcome, NodeId(2)).unwrap();
            assert_eq!(welcome.version, VERSION_MAX);
        }
    }

    #[test]
    fn trap_3_39_two_clusters_of_one_name_refuse_each_other() {
        let reason = of_cluster(2, 8)
            .welcome(&of_cluster(1, 7).hello(NodeId(2)))
            .unwrap_err();
        assert!(
            reason.contains("two clusters") && reason.contains("0707"),
            "{reason}"
        );
        let welcome = of_cluster(2, 8).welcome(&node(1).hello(NodeId(2))).unwrap();
        assert!(
            of_cluster(1, 7).check_welcome(&welcome, NodeId(2)).is_err(),
            "the dialer looks too"
        );
    }

    #[test]
    fn trap_3_45_another_node_s_address_is_noticed() {
        let reason = node(3).welcome(&node(1).hello(NodeId(2))).unwrap_err();
        assert!(
            reason.contains("meant to reach node 2 and reached node 3"),
            "{reason}"
        );
        let welcome = node(3).welcome(&node(1).hello(NodeId(3))).unwrap();
        let reason = node(1).check_welcome(&welcome, NodeId(2)).unwrap_err();
        assert!(reason.contains("reached node 3 instead of node 2"), "{reason}");
        let reason = node(2).welcome(&node(2).hello(NodeId(2))).unwrap_err();
        assert!(reason.contains("both sides are node 2"), "{reason}");
    }

    #[test]
    fn other_names_and_versions_are_refused() {
        let other = Identity {
            cluster_name: "test".into(),
            ..node(1)
        };
        let reason = node(2).welcome(&other.hello(NodeId(2))).unwrap_err();
        assert!(
            reason.contains("\"prod\"") && reason.contains("\"test\""),
            "{reason}"
        );
        let newer = Hello {
            version_min: 8,
            version_max: 9,
            ..node(1).hello(NodeId(2))
        };
        let reason = node(2).welcome(&newer).unwrap_err();
        assert!(reason.contains("8 to 9: upgrade the older one"), "{reason}");
        let welcome = Welcome {
            version: 9,
            ..node(2).welcome(&node(1).hello(NodeId(2))).unwrap()
        };
        assert!(node(1).check_welcome(&welcome, NodeId(2)).is_err());
    }
}
