//! Taking connections in.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::net::{Accepted, Acceptor, SocketOptions};

use super::Service;
use super::connection::{Ends, serve_connection};

/// How long a client that is refused may take to hear why.
const REFUSE_MAX: Duration = Duration::from_millis(100);

/// After how much silence the kernel asks whether a client is still there; Redis's 300 s would keep the
/// place of a dead one for long.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves every client that connects, until `shutdown`; then answers what is under way and returns when the
/// last connection is closed.
pub async fn serve(listener: TcpListener, service: Arc<Service>, shutdown: CancellationToken) {
    let acceptor = Acceptor::new(listener, service.options().max_connections);
    let connections = TaskTracker::new();
    loop {
        let Accepted { stream, from, slot } = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        // CONFIG SET maxclients may have taken places away.
        let slot = slot.filter(|_| acceptor.open() <= service.settings.max_connections());
        let Some(slot) = slot else {
            service.counters().on_rejected();
            connections.spawn(refuse(stream));
            continue;
        };
        let options = SocketOptions {
            keepalive: KEEPALIVE,
            user_timeout: None,
            unsent_max_bytes: None,
        };
        if let Err(error) = options.apply(&stream) {
            tracing::debug!(client = %from, %error, "socket options not set");
        }
        let (service, shutdown) = (service.clone(), shutdown.clone());
        connections.spawn(async move {
            let ends = Ends {
                client: from.to_string(),
                local: stream
                    .local_addr()
                    .map(|local| local.to_string())
                    .unwrap_or_default(),
            };
            serve_connection(service, stream, ends, shutdown).await;
            drop(slot);
        });
    }
    drop(acceptor);
    connections.close();
    connections.wait().await;
}

async fn refuse(mut stream: TcpStream) {
    let refused = async {
        stream
            .write_all(b"-ERR max number of clients reached\r\n")
            .await?;
        stream.shutdown().await
    };
    // It is told if it can be; a client that is gone misses nothing.
    let _ = tokio::time::timeout(REFUSE_MAX, refused).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

    use super::*;
    use crate::client::Options;
    use crate::client::fake::Fake;

    async fn line(stream: &mut BufReader<TcpStream>) -> String {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        line
    }

    #[tokio::test]
    async fn one_client_too_many_is_told_so_and_all_are_let_go_at_the_end() {
        let options = Options {
            max_connections: 2,
            ..Options::default()
        };
        let fake = Fake::start(options, Duration::ZERO);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(serve(listener, fake.service.clone(), fake.shutdown.clone()));
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = BufReader::new(TcpStream::connect(address).await.unwrap());
            client.write_all(b"PING\n").await.unwrap();
            assert_eq!(line(&mut client).await, "+PONG\r\n");
            clients.push(client);
        }
        let mut refused = BufReader::new(TcpStream::connect(address).await.unwrap());
        assert_eq!(line(&mut refused).await, "-ERR max number of clients reached\r\n");
        assert_eq!(line(&mut refused).await, "");
        assert_eq!(fake.service.counters().connections(), 2);
        assert_eq!(fake.service.counters().connections_rejected(), 1);
        fake.shutdown.cancel();
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        }
        drop(clients);
        served.await.unwrap();
    }
}
