//! Four routes and a page, over HTTP/1 with hyper. Every bound on what a client may send or hold is here.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::{Node, Operation, Outcome, Status};

use super::Metrics;
use super::ready::probe;

/// Bounds on what clients may do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at once; more wait in the kernel's queue. Default 64.
    pub connections_max: usize,
    /// How long the node may take for an answer. Default 1 s.
    pub patience: Duration,
    /// How long a client may take for the head of a request, the next one on a kept connection included.
    /// Default 10 s.
    pub head_timeout: Duration,
    /// How long a connection may live in all; it is closed between requests. Default 10 min.
    pub life_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections_max: 64,
            patience: Duration::from_secs(1),
            head_timeout: Duration::from_secs(10),
            life_max: Duration::from_secs(600),
        }
    }
}

type Reply = Response<Full<Bytes>>;

struct Admin {
    node: Node,
    metrics: Metrics,
    options: Options,
}

/// Serves until `stop`; then what is being answered is answered, and connections close.
pub async fn serve(
    listener: TcpListener,
    node: Node,
    metrics: Metrics,
    options: Options,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(options.connections_max));
    let connections = TaskTracker::new();
    let admin = Arc::new(Admin {
        node,
        metrics,
        options,
    });
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stop.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let (admin, stop) = (Arc::clone(&admin), stop.clone());
                connections.spawn(async move {
                    connection(admin, socket, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: trying again at once would spin.
                tracing::warn!(%error, "admin: accept failed");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection(admin: Arc<Admin>, socket: TcpStream, stop: CancellationToken) {
    const HEAD_BYTES_MAX: usize = 16 << 10;
    const GRACE: Duration = Duration::from_secs(1);
    let life_max = admin.options.life_max;
    let service = service_fn(|request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(&request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(admin.options.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(64)
        .half_close(true)
        .serve_connection(TokioIo::new(socket), service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = sleep(life_max) => None,
    };
    // A client that does not read its answer is cut off after the grace.
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => {
            serving.as_mut().graceful_shutdown();
            timeout(GRACE, serving).await
        }
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "admin: connection failed");
    }
}

impl Admin {
    async fn answer(&self, request: &Request<Incoming>) -> Reply {
        let path = request.uri().path();
        if !["/", "/healthz", "/readyz", "/status", "/metrics"].contains(&path) {
            let text = "no such page; there are /, /healthz, /readyz, /status and /metrics\n";
            return plain(StatusCode::NOT_FOUND, text.into());
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut reply = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
            reply
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return reply;
        }
        match path {
            "/healthz" => self.healthz(),
            "/readyz" => self.readyz().await,
            "/status" => self.status_json().await,
            "/metrics" => self.metrics(request).await,
            _ => reply(StatusCode::OK, "text/html; charset=utf-8", PAGE.into()),
        }
    }

    fn healthz(&self) -> Reply {
        if self.node.is_stopped() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the node has stopped\n".into());
        }
        plain(StatusCode::OK, "ok\n".into())
    }

    async fn readyz(&self) -> Reply {
        match probe(&self.node, self.options.patience).await {
            Ok(()) => plain(StatusCode::OK, "ready\n".into()),
            Err(why) => {
                let problems = self.status().await.map(|status| status.problems);
                let problems = problems.unwrap_or_default().into_iter();
                let lines: String = problems.map(|problem| format!("{problem}\n")).collect();
                plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("not ready: {why}\n{lines}"),
                )
            }
        }
    }

    async fn status_json(&self) -> Reply {
        match self.status().await {
            Some(status) => reply(
                StatusCode::OK,
                "application/json",
                format!("{}\n", status.to_json()),
            ),
            None => no_answer(),
        }
    }

    async fn metrics(&self, request: &Request<Incoming>) -> Reply {
        let Some(status) = self.status().await else {
            return no_answer();
        };
        let accept = request.headers().get(ACCEPT);
        let is_open = accept.is_some_and(|accept| {
            accept
                .to_str()
                .is_ok_and(|accept| accept.contains("application/openmetrics-text"))
        });
        let content_type = match is_open {
            true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            false => "text/plain; version=0.0.4; charset=utf-8",
        };
        match self.metrics.page(&status) {
            Ok(page) => reply(StatusCode::OK, content_type, page),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    async fn status(&self) -> Option<Box<Status>> {
        match timeout(self.options.patience, self.node.ask(Operation::Status)).await {
            Ok(Some(Outcome::Status(status))) => Some(status),
            _ => None,
        }
    }
}

/// The live page: it asks for `/status` again and again.
const PAGE: &str = include_str!("page.html");

fn no_answer() -> Reply {
    let text = "the node does not answer: it is overloaded or has stopped\n";
    plain(StatusCode::SERVICE_UNAVAILABLE, text.into())
}

fn plain(status: StatusCode, text: String) -> Reply {
    reply(status, "text/plain; charset=utf-8", text)
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::kv::{Code, Reply as KvReply};
    use crate::node::Answer;

    /// A node that answers every read with `reply`.
    fn node(reply: Option<KvReply>) -> Node {
        let (node, mut queue) = Node::channel(16);
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(submission) = queue.recv().await {
                for request in submission.requests {
                    let outcome = match (&request.operation, &reply) {
                        (Operation::Status, _) => Outcome::Status(Box::default()),
                        (_, Some(reply)) => Outcome::Reply(reply.clone()),
                        (_, None) => {
                            held.push(submission.answers.clone());
                            continue;
                        }
                    };
                    let ticket = request.ticket;
                    submission.answers.send(Answer { ticket, outcome }).ok();
                }
            }
        });
        node
    }

    async fn start(reply: Option<KvReply>, options: Options) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            node(reply),
            Metrics::new(),
            options,
            stop.clone(),
        ));
        (address, stop)
    }

    /// What comes back for these bytes until the server closes.
    async fn exchange(address: SocketAddr, bytes: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A reset after the answer is the server's right when more was sent than it read.
        socket.read_to_string(&mut answer).await.ok();
        answer
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    #[tokio::test]
    async fn the_routes_answer() {
        let (address, _stop) = start(Some(KvReply::Integer(0)), Options::default()).await;
        for (path, status, part) in [
            ("/healthz", "200 OK", "ok\n"),
            ("/readyz", "200 OK", "ready\n"),
            ("/status", "200 OK", "\"role\":\"follower\""),
            ("/status?x=1", "200 OK", "content-type: application/json"),
            ("/metrics", "200 OK", "raftline_term 0\n"),
            ("/", "200 OK", "<!doctype html>"),
            ("/nothing", "404 Not Found", "there are /"),
        ] {
            let answer = get(address, path).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{path}: {answer}"
            );
            assert!(answer.contains(part), "{path}: {answer}");
        }
        let answer = exchange(address, "POST /status HTTP/1.0\r\n\r\n").await;
        assert!(
            answer.contains(" 405 ") && answer.contains("allow: GET, HEAD"),
            "{answer}"
        );
        let answer = exchange(address, "HEAD /healthz HTTP/1.0\r\n\r\n").await;
        assert!(answer.contains(" 200 ") && !answer.contains("ok\n"), "{answer}");
    }

    #[tokio::test]
    async fn not_ready_says_why() {
        let refused = KvReply::error(Code::ClusterDown, "no leader is known");
        let (address, _stop) = start(Some(refused), Options::default()).await;
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(
            answer.contains("refused: CLUSTERDOWN no leader is known\n"),
            "{answer}"
        );

        let patience = Duration::from_millis(20);
        let (address, _stop) = start(
            None,
            Options {
                patience,
                ..Options::default()
            },
        )
        .await;
        let answer = get(address, "/readyz").await;
        assert!(answer.contains("took longer than 20 ms\n"), "{answer}");
    }

    #[tokio::test]
    async fn rubbish_long_heads_and_slow_clients_are_closed() {
        let head_timeout = Duration::from_millis(50);
        let options = Options {
            head_timeout,
            connections_max: 2,
            ..Options::default()
        };
        let (address, _stop) = start(Some(KvReply::Integer(0)), options).await;
        let rubbish = exchange(address, "\0\x01rubbish\r\n\r\n").await;
        assert!(rubbish.starts_with("HTTP/1.1 400 "), "{rubbish}");
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(64 << 10));
        let long = exchange(address, &long).await;
        assert!(long.is_empty() || long.starts_with("HTTP/1.1 431 "), "{long}");
        // More silent clients than there are places: they are dropped, and the next one is served.
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = get(address, "/healthz").await;
        assert!(answer.ends_with("ok\n"), "{answer}");
    }

    #[tokio::test]
    async fn stop_closes_kept_connections() {
        let (address, stop) = start(Some(KvReply::Integer(0)), Options::default()).await;
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        socket.read_exact(&mut first).await.unwrap();
        stop.cancel();
        let mut rest = Vec::new();
        timeout(Duration::from_secs(5), socket.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
    }
}
