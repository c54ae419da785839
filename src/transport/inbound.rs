//! Those who dial us: accept, shake hands, keep the newest connection of each node.
//!
//! Whoever can reach the port can open connections, so each kind has its bound: [`HANDSHAKES_MAX`] in their
//! handshake, of which the oldest makes place for a new one (an honest node is through in a moment, and
//! one that dawdles cannot keep it out); one for each member; [`STRANGERS_MAX`] for nodes that are not
//! members as far as we know, because a node that joins is dialed by a leader of whom it has never heard;
//! [`CONNECTIONS_MAX`] in all.
//!
//! Missing: without TLS a stranger that knows the cluster's name can speak as any member.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::codec::FrameReader;
use super::connection::{Connection, End, Link, PeerInfo, Side};
use super::event::Room;
use super::handshake::{self, HandshakeError};
use super::members::Refusal;
use crate::net::{Accepted, Acceptor};
use crate::wire::peer::HANDSHAKE_MAX_BYTES;

/// How many connections may be open that were dialed by others.
const CONNECTIONS_MAX: usize = 256;

/// How many of them may be in their handshake.
const HANDSHAKES_MAX: usize = 64;

/// How many of them may come from nodes that are not members.
pub(super) const STRANGERS_MAX: usize = 64;

/// Accepts until shutdown.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let acceptor = Acceptor::new(listener, CONNECTIONS_MAX);
    let drain = shared.drain.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => return,
            accepted = acceptor.accept() => accepted,
        };
        if accepted.slot.is_none() {
            shared.on_refused(accepted.from, "too many connections");
            continue;
        }
        let hurry = shared.state().begin_handshake(HANDSHAKES_MAX);
        shared.tasks.spawn(serve(Arc::clone(&shared), accepted, hurry));
    }
}

/// One connection, from its first byte to its last. `hurry` ends its handshake.
async fn serve(shared: Arc<Shared>, accepted: Accepted, hurry: CancellationToken) {
    let Accepted {
        stream,
        from,
        slot: _slot,
    } = accepted;
    let greeted = tokio::select! {
        biased;
        () = shared.drain.cancelled() => return,
        () = hurry.cancelled() => Err(HandshakeError::TimedOut),
        greeted = greet(&shared, stream) => greeted,
    };
    hurry.cancel();
    match greeted {
        Ok(Some(greeted)) => keep(&shared, from, greeted).await,
        Ok(None) => {}
        Err(HandshakeError::Malformed(reason)) => shared.on_malformed(&from.to_string(), &reason),
        Err(error) => {
            shared.on_refused(from, &error.to_string());
            if let HandshakeError::Wiped { peer, .. } = error {
                shared.report_refusal(peer, Refusal::Wiped).await;
            }
        }
    }
}

struct Greeted {
    stream: TcpStream,
    reader: FrameReader,
    info: PeerInfo,
    room: Room,
}

/// `None`: nobody listens to events any more.
async fn greet(shared: &Shared, mut stream: TcpStream) -> Result<Option<Greeted>, HandshakeError> {
    shared.options.socket().apply(&stream)?;
    let Some(room) = shared.events.room_for_news().await else {
        return Ok(None);
    };
    let mut reader = FrameReader::new(HANDSHAKE_MAX_BYTES);
    let us = shared.identity();
    let handshake = handshake::accept(&us, &mut stream, &mut reader);
    let hello = timeout(shared.options.handshake_timeout, handshake).await;
    let hello = hello.map_err(|_| HandshakeError::TimedOut)??;
    let info = PeerInfo {
        node_id: hello.node_id,
        cluster_id: hello.cluster_id,
        incarnation: hello.incarnation,
        membership_index: hello.membership_index,
        frame_max_bytes: hello.frame_max_bytes,
    };
    Ok(Some(Greeted {
        stream,
        reader,
        info,
        room,
    }))
}

async fn keep(shared: &Arc<Shared>, from: SocketAddr, greeted: Greeted) {
    let Greeted {
        stream,
        reader,
        info,
        room,
    } = greeted;
    let peer = info.node_id;
    let link = Link::new(shared, Side::Accepted, info, shared.kill.child_token());
    if !shared.state().keep_inbound(&link) {
        shared.on_refused(from, "too many connections from nodes that are not members");
        return;
    }
    shared.close_if_unfit(&link);
    shared.counters.opened(peer);
    tracing::debug!(%peer, %from, "dialed by the peer");
    let end = Connection::new(shared, &link)
        .run(stream, reader, Some(room))
        .await;
    shared.state().drop_inbound(&link);
    if let End::Malformed(reason) = &end {
        shared.on_malformed(&format!("node {peer} at {from}"), reason);
    }
    tracing::debug!(%peer, %from, reason = %end, "the peer's connection has ended");
}

impl Shared {
    /// Counts and logs a connection that was not kept.
    fn on_refused(&self, from: SocketAddr, reason: &str) {
        self.counters.handshakes_refused.fetch_add(1, Ordering::Relaxed);
        if let Some(unsaid) = self.log_refused.allow() {
            tracing::warn!(%from, reason, unsaid, "connection refused");
        }
    }
}
