//! A recorded run of the engine, and the crash states that are entered from it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{Said, open_and_check};
use crate::device::{Fs, Mounted, Rig};
use crate::enclosure::enclosed;
use crate::image::{State, Step, What};
use crate::load::Load;
use crate::server::{Answer, Ask};

pub struct Recorded<'a> {
    pub rig: &'a Rig,
    pub number: usize,
    pub steps: Vec<Step>,
    pub load: Load,
    /// What had been said before it began.
    pub earlier: Said,
}

/// What is kept of a failure, beside the recording itself.
#[derive(Serialize, Deserialize)]
struct Kept {
    fs: Fs,
    load: Load,
    steps: Vec<Step>,
    state: State,
    said: Said,
}

impl<'a> Recorded<'a> {
    /// Records the engine under this load, on what the disk holds now.
    pub fn run(rig: &'a Rig, load: Load, earlier: Said) -> Self {
        let number = rig.record();
        let mounted = rig.mount();
        let (text, code) = load.run();
        drop(mounted);
        let recorded = Self { rig, number, steps: rig.steps(number), load, earlier };
        if code != 0 {
            let state = State { cut: 0, changes: Vec::new() };
            recorded.fail(
                &state,
                &recorded.earlier.clone(),
                &format!("the engine under load: exit code {code}: {text}"),
            );
        }
        recorded
    }

    /// What had been said by then.
    pub fn said(&self, cut: usize) -> Said {
        Said::before(&self.steps, cut, self.load.setting, &self.earlier)
    }

    /// Starts the machine again after this power cut.
    pub fn enter(&self, state: &State) -> Mounted<'a> {
        self.rig.become_state(self.number, state);
        self.rig.reboot();
        self.rig.mount()
    }

    /// Whether a state gives back what was promised.
    pub fn check(&self, state: &State, said: &Said) -> Result<(), String> {
        let mounted = caught(|| Ok(self.enter(state)))?;
        let checked = caught(|| open_and_check(&self.load, said));
        drop(mounted);
        checked
    }

    /// Keeps what is needed to repeat it, and fails the test.
    pub fn fail(&self, state: &State, said: &Said, why: &str) -> ! {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("rig-failures");
        std::fs::create_dir_all(&folder).expect("a folder");
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let path = folder.join(format!("{}.state", clock.as_millis()));
        self.rig.ask(&Ask::Save(self.number, path.display().to_string()));
        let (load, steps) = (self.load.clone(), self.steps.clone());
        let kept = Kept { fs: self.rig.fs, load, steps, state: state.clone(), said: said.clone() };
        let text = serde_json::to_vec(&kept).expect("plain fields");
        std::fs::write(path.with_extension("json"), text).expect("written");
        panic!(
            "{:?} {:?} {:?}: {why}\ncut at step {} of {}. To repeat it: FOREBAY_RIG_REPLAY={} cargo test \
             --all-features --test rig recorded::replay -- --nocapture",
            self.rig.fs,
            self.load.setting,
            self.load.sink,
            state.cut,
            self.steps.len(),
            path.display()
        );
    }

    pub fn summary(&self) -> String {
        let count = |of: fn(&What) -> bool| self.steps.iter().filter(|step| of(&step.what)).count();
        format!(
            "{:?} {:?} {:?}: recorded {} writes, {} of them batches, {} flushes, {} marks in {} ms",
            self.rig.fs,
            self.load.setting,
            self.load.sink,
            count(|what| matches!(what, What::Write { .. })),
            count(|what| matches!(what, What::Write { batch: Some(_), .. })),
            count(|what| matches!(what, What::Flush)),
            count(|what| matches!(what, What::Mark(_))),
            self.steps.last().map_or(0, |step| step.at_ns / 1_000_000),
        )
    }
}

/// A panic is a failure of the state like any other.
pub fn caught<T>(check: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(format!("panicked: {}", text.unwrap_or_else(|| "see above".to_owned())))
    })
}

/// Repeats a failure that was kept.
#[test]
fn replay() {
    let Some(path) = std::env::var_os("FOREBAY_RIG_REPLAY").map(PathBuf::from) else { return };
    let text = std::fs::read(path.with_extension("json")).expect("what was kept");
    let kept: Kept = serde_json::from_slice(&text).expect("what was kept");
    enclosed("recorded::replay", kept.fs, |dir| {
        let rig = Rig::start(dir, kept.fs);
        let number = match rig.ask(&Ask::Restore(path.display().to_string(), kept.steps.clone())) {
            Answer::Recording(number) => number,
            other => panic!("{other:?}"),
        };
        let load = Load { store: rig.store(), ..kept.load };
        let recorded = Recorded { rig: &rig, number, steps: kept.steps, load, earlier: Said::default() };
        let checked = recorded.check(&kept.state, &kept.said);
        assert_eq!(checked, Ok(()), "cut at step {}", kept.state.cut);
    });
}
