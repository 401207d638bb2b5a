//! Hookwire as it is run, in both shapes, from the real binary.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hookwire_log::embedded::{self, EmbeddedLog};
use hookwire_log::kafka::{self, KafkaLog};
use hookwire_log::{Layout, Log};
use hookwire_proto::role::Role;
use hookwire_proto::v1::{ListNodesRequest, Node};
use serde_json::Value;
use tempfile::TempDir;

use crate::api::Api;
use crate::certificates::Authority;
use crate::machine::{Servers, free_ports, hookwire};
use crate::process::Process;
use crate::receiver::Receiver;
use crate::{say, wait_until};
use files::Files;

mod files;

/// How long a process may take until it is ready: a debug build on a machine that does other things too.
const START: Duration = Duration::from_secs(60);

/// Settings that whatever delivers has, be it a node or the one process.
const NODE_SECTIONS: [&str; 8] = ["retry", "dispatch", "lanes", "deliver", "publish", "node", "telemetry", "traces"];

/// The file with the administrator's key.
const ADMIN_KEY_FILE: &str = "admin-key";

/// The two ways in which Hookwire is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `hookwire dev`: one process, SQLite and the embedded log.
    Embedded,
    /// Several of each plane as processes of their own, on PostgreSQL and Kafka, with TLS everywhere.
    Production,
}

/// What a test wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// Control planes, in production.
    pub control_planes: usize,
    /// Data-plane nodes, in production.
    pub nodes: usize,
    /// What each of them does, as far as this goes; the others do everything.
    pub roles: Vec<Vec<Role>>,
    /// Settings as `section.field` and value, as `--set` takes them: of the processes that have them.
    pub settings: Vec<(&'static str, String)>,
    /// Other servers than those that `scripts/test` started.
    pub servers: Option<Servers>,
    /// The layout that comes of the settings, which [`Options::schedule`] sets.
    pub layout: Layout,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            control_planes: 1,
            nodes: 1,
            roles: Vec::new(),
            settings: Vec::new(),
            servers: None,
            layout: Layout::default(),
        }
    }
}

impl Options {
    /// Delays between attempts and the tiers that hold them, in milliseconds.
    #[must_use]
    pub fn schedule(mut self, delays: &[u64], tiers: &[u64]) -> Self {
        let list = |list: &[u64]| format!("{:?}", list.iter().map(|ms| format!("{ms}ms")).collect::<Vec<_>>());
        self.layout.retry_tiers = tiers.iter().map(|&ms| Duration::from_millis(ms)).collect();
        self.set("retry.delays", list(delays)).set("log.retry_tiers", list(tiers))
    }

    /// Any other setting.
    #[must_use]
    pub fn set(mut self, setting: &'static str, value: impl ToString) -> Self {
        self.settings.push((setting, value.to_string()));
        self
    }

    fn of_plane(&self, sections: &[&str]) -> Vec<String> {
        (self.settings.iter())
            .filter(|(setting, _)| sections.iter().any(|section| setting.starts_with(&format!("{section}."))))
            .flat_map(|(setting, value)| ["--set".to_owned(), format!("{setting}={value}")])
            .collect()
    }
}

/// One process of a cluster and where it is reached.
pub struct Member {
    /// The process.
    pub process: Process,
    /// Its API (of a control plane) or its `PublishService` (of a node).
    pub url: String,
    /// Where `/livez` and `/readyz` are.
    pub ops: String,
}

impl Member {
    /// Status of one of its pages for operators; `None` while nobody answers.
    pub async fn page(&self, path: &str) -> Option<(u16, String)> {
        let response = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()
            .ok()?
            .get(format!("{}{path}", self.ops))
            .send()
            .await
            .ok()?;
        Some((response.status().as_u16(), response.text().await.unwrap_or_default()))
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends instead, or takes too long.
    pub async fn ready(&mut self) -> Result<()> {
        let name = self.process.name.clone();
        let mut said = None;
        wait_until(&format!("{name} is ready"), START, async || {
            self.process.check()?;
            said = self.page("/readyz").await;
            Ok(said.as_ref().is_some_and(|(status, _)| *status == 200))
        })
        .await
        .map(drop)
        .with_context(|| format!("{name} says {said:?}"))
    }

    /// Starts it again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.start()?;
        self.ready().await
    }
}

/// A running Hookwire with an administrator's key, ended when it is dropped.
pub struct Cluster {
    /// Its shape.
    pub shape: Shape,
    /// Control planes; embedded, the one process.
    pub control_planes: Vec<Member>,
    /// Nodes; embedded, none besides the one process.
    pub nodes: Vec<Member>,
    /// A key with role ADMIN of every tenant.
    pub admin_key: String,
    /// The authority that callers trust.
    pub callers_trust: Option<PathBuf>,
    /// Recipients.
    pub receiver: Receiver,
    /// Its topics.
    layout: Layout,
    /// Where the log of production is.
    kafka: kafka::Settings,
    /// Where publishing is reached when there is no node of its own.
    publish_url: String,
    /// URL of production's database.
    database: Option<String>,
    /// Where files of this test lie.
    pub directory: TempDir,
}

impl Cluster {
    /// Starts one and waits until every process is ready. `None`, after saying so, where production's parts are missing.
    ///
    /// # Errors
    /// When something can't be started.
    pub async fn start(shape: Shape, options: &Options) -> Result<Option<Self>> {
        let directory = tempfile::Builder::new().prefix("hookwire-test-").tempdir()?;
        let recipients = Authority::new("recipients", directory.path())?;
        let receiver = Receiver::start(&recipients, directory.path()).await?;
        match shape {
            Shape::Embedded => Self::embedded(options, directory, &recipients, receiver).await.map(Some),
            Shape::Production => {
                let servers = match &options.servers {
                    Some(servers) => Some(servers.clone()),
                    None => Servers::from_environment()?,
                };
                let Some(servers) = servers else { return Ok(None) };
                Self::production(options, &servers, directory, &recipients, receiver).await.map(Some)
            }
        }
    }

    async fn embedded(
        options: &Options,
        directory: TempDir,
        recipients: &Authority,
        receiver: Receiver,
    ) -> Result<Self> {
        let data = directory.path().join("data");
        let port = free_ports(5);
        let arguments = [
            vec!["dev".into(), "--data-dir".into(), text(&data), "--port".into(), port.to_string()],
            vec!["--set".into(), format!("deliver.ca_file={}", text(&recipients.certificate))],
            options.of_plane(&[&["log"][..], &NODE_SECTIONS].concat()),
        ]
        .concat();
        let process = Process::new("dev", &hookwire()?, &arguments, directory.path());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut member = Member { process, url: url(port), ops: url(port + 4) };
        member.restart().await?;
        let keys: Value = serde_json::from_slice(&std::fs::read(data.join("keys.json"))?)?;
        let admin_key = keys["admin_key"].as_str().context("keys.json has an admin key")?.to_owned();
        Ok(Self {
            shape: Shape::Embedded,
            control_planes: vec![member],
            nodes: Vec::new(),
            admin_key,
            callers_trust: None,
            receiver,
            layout: options.layout.clone(),
            kafka: kafka::Settings::default(),
            publish_url: url(port + 1),
            database: None,
            directory,
        })
    }

    async fn production(
        options: &Options,
        servers: &Servers,
        directory: TempDir,
        recipients: &Authority,
        receiver: Receiver,
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = directory.path();
        let database = servers.create_database(&prefix.replace('-', "_"))?;
        let callers = Authority::new("callers", path)?;
        let planes = Authority::new("planes", path)?;
        let roles = |index: usize| options.roles.get(index).cloned().unwrap_or_else(|| Role::ALL.to_vec());
        let listed = (0..options.nodes).map(|index| (format!("node-{}", index + 1), roles(index))).collect();
        let files = Files { path, servers, planes: &planes, callers: &callers, recipients, nodes: listed };
        let admin_key = files.admin_key()?;
        let control_ports: Vec<u16> = (0..options.control_planes).map(|_| free_ports(3)).collect();

        let mut control_planes = Vec::new();
        for (index, port) in control_ports.iter().enumerate() {
            let name = format!("control-plane-{}", index + 1);
            let file = files.control_plane(&name, *port, &database, &prefix)?;
            if index == 0 {
                let sets = options.of_plane(&["log"]);
                run(&[vec!["topics".into(), "apply".into(), "--config".into(), text(&file)], sets].concat())?;
            }
            let sets = options.of_plane(&["log", "egress", "index", "telemetry"]);
            let arguments = [vec!["control-plane".into(), "--config".into(), text(&file)], sets].concat();
            let process = Process::new(&name, &hookwire()?, &arguments, path);
            let member = Member { process, url: https(*port), ops: format!("http://127.0.0.1:{}", port + 2) };
            control_planes.push(member);
        }
        let endpoints: Vec<String> = control_ports.iter().map(|port| https(port + 1)).collect();
        let mut nodes = Vec::new();
        for (name, roles) in &files.nodes {
            let port = free_ports(2);
            let file = files.node(name, roles, port, &endpoints)?;
            let sets = options.of_plane(&[&["kafka"][..], &NODE_SECTIONS].concat());
            let arguments = [vec!["data-plane".into(), "--config".into(), text(&file)], sets].concat();
            let process = Process::new(name, &hookwire()?, &arguments, path);
            nodes.push(Member { process, url: https(port), ops: format!("http://127.0.0.1:{}", port + 1) });
        }
        // One control plane first: it migrates the empty database.
        for member in &mut control_planes {
            member.restart().await?;
        }
        for member in &mut nodes {
            member.process.start()?;
        }
        for member in &mut nodes {
            member.ready().await?;
        }
        let publish_url = nodes.first().map(|node| node.url.clone()).unwrap_or_default();
        Ok(Self {
            shape: Shape::Production,
            control_planes,
            nodes,
            admin_key,
            callers_trust: Some(callers.certificate.clone()),
            receiver,
            layout: Layout { prefix, ..options.layout.clone() },
            kafka: servers.kafka_settings(),
            publish_url,
            database: Some(database),
            directory,
        })
    }

    /// The API of a control plane, as administrator.
    ///
    /// # Errors
    /// When there is no such control plane.
    pub fn control(&self, index: usize) -> Result<Api> {
        let member = self.control_planes.get(index).context("no such control plane")?;
        Api::new(&member.url, self.callers_trust.as_deref(), &self.admin_key)
    }

    /// Waits until each node has its share of the partitions: while they change hands they have no owner until what was under way has ended.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn balanced(&self) -> Result<()> {
        let api = self.control(0)?;
        wait_until("each node has its share of the partitions", START, async || {
            let listed = api.nodes().list_nodes(ListNodesRequest::default()).await?.into_inner().nodes;
            let owns = |node: &Node, topic: &str| node.partitions.iter().any(|owned| owned.topic.ends_with(topic));
            let has_share = |node: &Node| [".messages", ".deliveries"].iter().all(|topic| owns(node, topic));
            Ok(listed.len() >= self.nodes.len() && listed.iter().all(has_share))
        })
        .await
        .map(drop)
    }

    /// Every node, for publishing, as administrator.
    ///
    /// # Errors
    /// When the authority's file can't be read.
    pub fn publishers(&self) -> Result<Vec<Api>> {
        let urls = match self.shape {
            Shape::Embedded => vec![self.publish_url.as_str()],
            Shape::Production => self.nodes.iter().map(|node| node.url.as_str()).collect(),
        };
        urls.into_iter().map(|url| Api::new(url, self.callers_trust.as_deref(), &self.admin_key)).collect()
    }

    /// The first node, for publishing, as administrator.
    ///
    /// # Errors
    /// When the authority's file can't be read.
    pub fn publisher(&self) -> Result<Api> {
        Api::new(&self.publish_url, self.callers_trust.as_deref(), &self.admin_key)
    }

    /// The address of publishing and of the API as tools take them, `host:port`.
    pub fn publish_address(&self) -> &str {
        self.publish_url.split("//").nth(1).unwrap_or_default()
    }

    /// Opens the log, to look at the records themselves. The embedded one is open to one process at a time, so `dev` is
    /// stopped before.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn open_log(&mut self) -> Result<Arc<dyn Log>> {
        Ok(match self.shape {
            Shape::Embedded => {
                self.control_planes[0].process.terminate(START).await?;
                let dir = self.directory.path().join("data/log");
                EmbeddedLog::open(embedded::Settings { dir, ..Default::default() }, self.layout.clone())?
            }
            Shape::Production => KafkaLog::open(self.kafka.clone(), Arc::new(self.layout.clone())).await?,
        })
    }

    /// Everything that is in production's database, as `pg_dump` writes it. Embedded, the database is a file below
    /// [`directory`](Self::directory).
    ///
    /// # Errors
    /// What `pg_dump` says.
    pub fn dump(&self) -> Result<Option<Vec<u8>>> {
        let Some(database) = &self.database else { return Ok(None) };
        let output = Command::new("pg_dump").arg(database).output()?;
        if !output.status.success() {
            bail!("cannot dump the database: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Some(output.stdout))
    }

    /// Every process, whichever plane.
    pub fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        self.control_planes.iter_mut().chain(&mut self.nodes)
    }

    /// What each process measures and is not 0, a line for each: where something is that did not arrive.
    pub async fn figures(&self) -> String {
        let mut lines = String::new();
        for member in self.control_planes.iter().chain(&self.nodes) {
            let (_, page) = member.page("/metrics").await.unwrap_or_default();
            let figures = (page.lines())
                .filter(|line| !line.starts_with('#') && !line.contains("_bucket{") && !line.ends_with(" 0"))
                .map(|line| line.trim_start_matches("hookwire_"));
            lines.push_str(&format!("{}: {}\n", member.process.name, figures.collect::<Vec<_>>().join("; ")));
        }
        lines
    }

    /// Everything that the processes have written.
    pub fn output(&mut self) -> String {
        self.members().map(|member| member.process.output()).collect()
    }
}

/// Starts a cluster, lets `check` judge it, and fails with the processes' output if it does. Nothing happens but a word on
/// stderr where production's parts are missing.
///
/// # Panics
/// When the check fails.
pub async fn with<F>(shape: Shape, options: Options, check: F)
where
    F: AsyncFnOnce(&mut Cluster) -> Result<()>,
{
    let cluster = Cluster::start(shape, &options).await;
    let Some(mut cluster) = cluster.unwrap_or_else(|error| panic!("{error:?}")) else {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        say(&format!("SKIPPED {test}: Kafka and PostgreSQL are not running; scripts/test starts them"));
        return;
    };
    if let Err(error) = check(&mut cluster).await {
        let figures = cluster.figures().await;
        // While the cluster is there: its processes then show what they wrote.
        panic!("{error:?}\n{figures}");
    }
}

/// Runs the binary to its end.
///
/// # Errors
/// When it fails; says what it wrote.
pub fn run(arguments: &[String]) -> Result<String> {
    let output = Command::new(hookwire()?).args(arguments).output()?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("hookwire {} ended with {}:\n{out}{err}", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether somebody listens at an address `host:port`.
pub fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

fn https(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
