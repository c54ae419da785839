//! The folder of a `dev` cluster: for each node its configuration, its data and its log.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{env, fmt, io, process};

use anyhow::{Context, anyhow};

use super::super::Failure;
use super::nodes::Plan;
use crate::base::units;
use crate::config::Config;

/// `DIR/node-k/{raftline.toml,data,log}`. A temporary folder goes with this value.
pub(super) struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    /// Makes the folder, or takes an existing one, and writes the configurations into it.
    pub(super) fn open(dir: Option<PathBuf>, plans: &[Plan], slow: f64) -> Result<Folder, Failure> {
        let folder = match dir {
            Some(path) => fs::create_dir_all(&path)
                .and_then(|()| fs::canonicalize(&path))
                .map(|path| Folder {
                    path,
                    is_temporary: false,
                })
                .with_context(|| format!("--dir {}", path.display())),
            None => temporary().context("cannot make a temporary folder"),
        };
        let folder = folder.map_err(Failure::Work)?;
        folder.is_of_this_cluster(plans)?;
        for plan in plans {
            folder.write(plan, plans, slow).map_err(Failure::Work)?;
        }
        Ok(folder)
    }

    /// The folder of one node.
    pub(super) fn node(&self, id: u16) -> PathBuf {
        self.path.join(format!("node-{id}"))
    }

    /// The configuration of one node.
    pub(super) fn config(&self, id: u16) -> PathBuf {
        self.node(id).join("raftline.toml")
    }

    /// The log of one node.
    pub(super) fn log(&self, id: u16) -> PathBuf {
        self.node(id).join("log")
    }

    /// A folder that was used before holds a membership, addresses included, which cannot be changed from here.
    fn is_of_this_cluster(&self, plans: &[Plan]) -> Result<(), Failure> {
        let file = self.config(1);
        let Ok(text) = fs::read_to_string(&file) else {
            return Ok(());
        };
        let parse =
            |text: &str| Config::parse("raftline.toml", text, []).map_err(|e| Failure::Usage(e.into()));
        let before = parse(&text)?.cluster.members;
        let wanted = match plans.first() {
            Some(plan) => parse(&self.text(plan, plans, 1.0))?.cluster.members,
            None => Vec::new(),
        };
        if before == wanted {
            return Ok(());
        }
        let port = before.first().and_then(|member| member.client.rsplit_once(':'));
        Err(Failure::Usage(anyhow!(
            "--dir: {} holds another cluster: use --nodes {} --base-port {}, or another folder",
            self.path.display(),
            before.len(),
            port.map_or("7238", |(_, port)| port),
        )))
    }

    fn write(&self, plan: &Plan, plans: &[Plan], slow: f64) -> anyhow::Result<()> {
        let folder = self.node(plan.id);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let file = self.config(plan.id);
        fs::write(&file, self.text(plan, plans, slow)).with_context(|| file.display().to_string())
    }

    /// One node's configuration.
    fn text(&self, plan: &Plan, plans: &[Plan], slow: f64) -> String {
        let data_dir = toml::Value::String(self.node(plan.id).join("data").to_string_lossy().into_owned());
        let members: String = plans
            .iter()
            .map(|plan| {
                let Plan { id, peer, client, .. } = plan;
                format!("  {{ id = {id}, peer = \"127.0.0.1:{peer}\", client = \"127.0.0.1:{client}\" }},\n")
            })
            .collect();
        let time = |ms: u64, factor: f64| units::duration(Duration::from_millis(ms).mul_f64(factor));
        format!(
            "# Written by `raftline dev` whenever it starts.\n\
             [node]\nid = {}\ndata_dir = {data_dir}\n\n\
             [listen]\nclient = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:{}\"\n\n\
             [cluster]\nname = \"dev\"\nmembers = [\n{members}]\n\n\
             [raft]\nheartbeat_interval = \"{}\"\nelection_timeout = \"{}\"\ndisk_stall_timeout = \"{}\"\n\n\
             [limits]\nrequest_timeout = \"{}\"\n",
            plan.id,
            plan.client,
            plan.peer,
            plan.admin,
            time(50, slow),
            time(500, slow),
            time(2000, slow.max(1.0)),
            // Not a timer of Raft's, but a request must outlast an election.
            time(4000, slow.max(1.0)),
        )
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            super::say(format_args!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = match self.is_temporary {
            true => "temporary: removed at the end",
            false => "kept, and used again next time",
        };
        write!(
            f,
            "configurations, data and logs in {} ({fate})",
            self.path.display()
        )
    }
}

/// A folder of our own, readable by nobody else.
fn temporary() -> io::Result<Folder> {
    let unique = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |age| age.subsec_nanos());
    let path = Path::new(&env::temp_dir()).join(format!("raftline-dev-{}-{unique}", process::id()));
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(Folder {
        path,
        is_temporary: true,
    })
}
