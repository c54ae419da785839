//! Taking connections in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Service, serve_connection};

/// How long to wait when the system has no room for another connection.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Serves every client that connects, until `shutdown`; then answers what is under way and returns when the
/// last connection is closed.
pub async fn serve(listener: TcpListener, service: Arc<Service>, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= service.options().max_connections => {
                service.counters().on_rejected();
                connections.spawn(refuse(stream));
            }
            Ok((stream, address)) => {
                // Replies leave in one write already; waiting for more of them only costs time.
                let _ = stream.set_nodelay(true);
                let (service, shutdown) = (service.clone(), shutdown.clone());
                connections.spawn(async move {
                    serve_connection(service, stream, address.to_string(), shutdown).await;
                });
            }
            Err(error) => on_accept_error(&error).await,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Out of file descriptors or memory is a matter of waiting; a client that went away before it was accepted
/// is none at all.
async fn on_accept_error(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!(%error, "cannot accept a client; trying again");
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

async fn refuse(mut stream: TcpStream) {
    let refused = async {
        stream
            .write_all(b"-ERR max number of clients reached\r\n")
            .await?;
        stream.shutdown().await
    };
    // It is told if it can be; a client that is gone misses nothing.
    let _ = tokio::time::timeout(BACK_OFF, refused).await;
}
