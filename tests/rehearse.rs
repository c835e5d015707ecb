//! `forebay rehearse`: real nodes as processes, one of them killed, in each setting.
#![cfg(feature = "server")]

use std::process::Command;

use serde_json::Value;

#[test]
fn a_rehearsal_of_each_setting_loses_nothing_and_says_what_it_took() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["rehearse", "--seconds", "0.8", "--rate", "1000", "--json", "--dir"]).arg(folder.path());
    let ran = command.output().expect("it runs");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(0), "{told}");
    let outcomes: Vec<Value> =
        ran.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let settings: Vec<(u64, Option<u64>, u64)> = outcomes
        .iter()
        .map(|of| {
            let number = |name: &str| of[name].as_u64();
            (number("wal_level").unwrap_or(0), number("wal_fsync_period_ms"), number("shipped").unwrap_or(9))
        })
        .collect();
    let wanted = [(1, None), (2, Some(3000)), (2, Some(0))];
    let wanted: Vec<_> = wanted.iter().flat_map(|(level, ms)| [(*level, *ms, 0), (*level, *ms, 1)]).collect();
    assert_eq!(settings, wanted);
    for outcome in &outcomes {
        let number = |name: &str| outcome[name].as_f64().unwrap_or_else(|| panic!("{name} in {outcome}"));
        assert_eq!(outcome["schema"], "forebay.rehearse/1");
        assert!(number("acked") > 0.0 && number("verified") >= number("acked"), "{outcome}");
        assert!(number("rto_ms") > 0.0 && number("failback_ms") > 0.0 && number("return_ms") > 0.0, "{outcome}");
        assert_eq!(number("lost"), 0.0, "{outcome}");
        assert!(number("shipped") == 0.0 || number("rpo_blocks") == 0.0, "{outcome}");
    }
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 0, "nothing is left of what went well");
}
