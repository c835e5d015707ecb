//! What all commands share: where the store is, and in which form they answer.

use std::path::PathBuf;

use clap::Args;
use forebay::IntakeRule;
use forebay::inspect::Where;
use serde::Serialize;
use serde_json::Value;

/// Where a store is, and the form of the answer.
#[derive(Args)]
pub struct StoreArgs {
    /// The store's folder
    #[arg(long)]
    pub dir: PathBuf,
    /// The folder of the intake rings, if the engine was told to keep them elsewhere
    #[arg(long)]
    pub intake_dir: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

impl StoreArgs {
    /// The place, its rings judged by this rule.
    pub fn place(&self, intake_rule: IntakeRule) -> Where {
        Where { dir: self.dir.clone(), intake_dir: self.intake_dir.clone(), intake_rule }
    }
}

/// Exit code of a check that failed.
pub const CHECK_FAILED: u8 = 3;

/// A value as JSON text, with its schema ahead.
pub fn with_schema(schema: &str, value: &impl Serialize) -> String {
    let mut object = serde_json::Map::from_iter([("schema".to_owned(), Value::from(schema))]);
    if let Ok(Value::Object(fields)) = serde_json::to_value(value) {
        object.extend(fields);
    }
    Value::Object(object).to_string()
}

/// `1 block`, `2 blocks`.
pub fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
