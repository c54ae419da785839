//! Looks for the leader of a `dev` cluster through the nodes' admin HTTP.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::nodes::Plan;

/// A node that leads, by its own word, and that a quorum confirms.
#[derive(Debug)]
pub(super) struct Leader {
    pub id: u64,
    pub term: u64,
}

/// Waits until there is a leader that can serve. Asks all nodes, also those started again by hand.
pub(super) async fn leader(plans: &[Plan]) -> Leader {
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        let asked = join_all(plans.iter().map(|plan| leads(plan.admin))).await;
        let latest = asked.into_iter().flatten().max_by_key(|leader| leader.term);
        if let Some(leader) = latest {
            return leader;
        }
        sleep(PAUSE).await;
    }
}

async fn leads(admin: u16) -> Option<Leader> {
    let status: serde_json::Value = serde_json::from_str(&get(admin, "/status").await?).ok()?;
    if status.get("role")?.as_str()? != "leader" {
        return None;
    }
    let leader = Leader {
        id: status.get("node")?.as_u64()?,
        term: status.get("term")?.as_u64()?,
    };
    get(admin, "/readyz").await.map(|_| leader)
}

/// The body of a page that is answered with 200.
async fn get(port: u16, path: &str) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(2);
    const BYTES_MAX: u64 = 1 << 20;
    let exchange = async {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        socket.take(BYTES_MAX).read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?;
        (status == "200").then(|| body.to_string())
    };
    timeout(PATIENCE, exchange).await.ok()?
}
