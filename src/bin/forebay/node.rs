//! `forebay init | serve | status | promote | demote | certs`: a store as one of several sites.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use forebay::node::control::{Request, ask};
use forebay::node::{Node, NodeConfig, certs, make_store};
use forebay::types::StoreId;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::out::with_schema;

const SCHEMA: &str = "forebay.node/1";
/// How often it is seen to that a node works, and whether it is to stop.
const CHECK: Duration = Duration::from_millis(100);

/// Which configuration.
#[derive(Args)]
pub struct ConfigArgs {
    /// The node's configuration, in TOML
    #[arg(long)]
    config: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Which store.
#[derive(Args)]
pub struct NodeArgs {
    /// The store's folder
    #[arg(long)]
    dir: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Options of `promote`.
#[derive(Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// It accepts beside others that are told so, too; nobody else is fenced but a single active one
    #[arg(long)]
    active_active: bool,
}

/// Options of `certs`.
#[derive(Args)]
pub struct CertsArgs {
    /// A new folder for the files
    #[arg(long)]
    out: PathBuf,
    /// A store's id, as `forebay init` prints it; once for each site
    #[arg(long = "store", required = true)]
    stores: Vec<StoreId>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Makes the store, if there is none, and prints its id.
pub fn init(args: &ConfigArgs) -> Result<()> {
    let store = make_store(&NodeConfig::read(&args.config)?)?.to_string();
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", with_schema(SCHEMA, &json!({ "store": store })))?;
    } else {
        writeln!(out, "{store}")?;
    }
    Ok(out.flush()?)
}

/// Runs the node until it is told to stop.
pub fn serve(args: &ConfigArgs) -> Result<()> {
    let config = NodeConfig::read(&args.config)?;
    // Before anything is open that a signal could leave as it is.
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("taking signals")?;
    let node = Node::start(&config)?;
    let status = serde_json::to_value(node.status()?)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", with_schema(SCHEMA, &status))?;
    } else {
        writeln!(out, "{}", in_words(&status))?;
    }
    out.flush()?;
    while signals.pending().next().is_none() {
        if let Err(error) = node.check() {
            // What can still be written is: whoever starts it again finds that.
            let stopped = node.stop();
            return Err(stopped.err().unwrap_or(error).into());
        }
        std::thread::sleep(CHECK);
    }
    eprintln!("stopping");
    Ok(node.stop()?)
}

/// Makes it the active one, or one of several.
pub fn promote(args: &PromoteArgs) -> Result<()> {
    ask_node(&args.node, if args.active_active { Request::Share } else { Request::Promote })
}

/// Asks a node, or tells it what to be, and prints how it stands.
pub fn ask_node(args: &NodeArgs, request: Request) -> Result<()> {
    let status = ask(&args.dir, request)?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", with_schema(SCHEMA, &status))?;
    } else {
        writeln!(out, "{}", in_words(&status))?;
    }
    Ok(out.flush()?)
}

/// Makes an authority and certificates.
pub fn make_certs(args: &CertsArgs) -> Result<()> {
    let (ca, sites) = certs::make(&args.out, &args.stores)?;
    let mut out = io::stdout().lock();
    if args.json {
        let sites: Vec<Value> = sites
            .iter()
            .map(|site| json!({ "store": site.store.to_string(), "cert": site.cert, "key": site.key }))
            .collect();
        writeln!(out, "{}", with_schema(SCHEMA, &json!({ "ca": ca, "sites": sites })))?;
        return Ok(out.flush()?);
    }
    for site in &sites {
        writeln!(out, "# {}", site.store)?;
        writeln!(out, "[replication.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n", ca, site.cert, site.key)?;
    }
    writeln!(out, "# {} signs for further sites: keep it apart from them", ca.with_extension("key").display())?;
    Ok(out.flush()?)
}

fn in_words(status: &Value) -> String {
    let text = |of: &Value, key: &str| match &of[key] {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = vec![
        format!("store    {}", text(status, "store")),
        format!(
            "role     {} under term {}, active: {}",
            text(status, "role"),
            text(status, "term"),
            text(status, "active")
        ),
    ];
    if status["running"] == false {
        lines.push("running  no".to_owned());
        return lines.join("\n");
    }
    let accepts = status["refuses"].as_str().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"));
    lines.push(format!("accepts  {accepts}"));
    if let Some(fault) = status["fault"].as_str() {
        lines.push(format!("fault    {fault}"));
    }
    lines.push(format!("listens  {}", text(status, "listen")));
    for (number, shard) in status["shards"].as_array().into_iter().flatten().enumerate() {
        let marks = ["accepted", "written", "synced", "flushed", "trimmed"];
        let marks: Vec<String> = marks.iter().map(|mark| format!("{mark} {}", shard[*mark])).collect();
        lines.push(format!("shard {number}  {}", marks.join(", ")));
    }
    for link in status["links"].as_array().into_iter().flatten() {
        let way = if link["way"] == "out" { "followed by" } else { "follows" };
        let backfill = &link["backfill"];
        let state = match (link["is_up"] == true, link["ended"].as_str()) {
            (true, _) if backfill.is_object() => format!(
                "{} data files over, {} of {} files and {} bytes to come",
                if link["way"] == "out" { "hands" } else { "takes" },
                backfill["files_left"],
                backfill["files"],
                backfill["bytes_left"]
            ),
            (true, _) => format!(
                "up, {} blocks, {} bytes, {} ms behind",
                link["behind_blocks"], link["behind_bytes"], link["behind_ms"]
            ),
            (false, why) => format!("down for {} ms: {}", link["behind_ms"], why.unwrap_or("not linked yet")),
        };
        lines.push(format!("link     {way} {} at {}: {state}", text(link, "peer"), text(link, "address")));
    }
    lines.join("\n")
}
