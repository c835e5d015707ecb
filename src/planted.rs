//! Bugs that are planted into the engine, to see that its tests find them. Only with the feature
//! `sim`, and only in a thread or a process that asks for one.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

mutants! {
    /// At (2, 0) a block is acknowledged when it is written.
    AckBeforeSync = "ack-before-sync",
    /// A sync is credited with what is written when it completes.
    CreditAtCompletion = "credit-at-completion",
    /// The folder is never synced.
    NoFolderSync = "no-folder-sync",
    /// A failed fsync is tried again and then believed.
    RetrySync = "retry-sync",
    /// A segment does not begin with what the shard holds of each stream.
    VectorUnsaid = "vector-unsaid",
    /// Recovery goes on in the log's last segment.
    AppendToRecovered = "append-to-recovered",
    /// Stamps are the same in all generations of a file.
    NoGenerationStamp = "no-generation-stamp",
    /// A ring entry is taken whatever its checksums say.
    RingEntryUnchecked = "ring-entry-unchecked",
    /// Replayed blocks get an identity of the new epoch.
    ReplayUnderNewEpoch = "replay-under-new-epoch",
    /// A sound batch behind a bad one proves that the bad one was durable.
    HeaderIsProof = "header-is-proof",
    /// A seal proves that everything before it was durable.
    SealIsProof = "seal-is-proof",
    /// Locks of segments are not asked for.
    RecycleWithoutLock = "recycle-without-lock",
    /// An entry's slot is filled before its payload is copied.
    SequenceBeforeCopy = "sequence-before-copy",
    /// What a later batch says to be synced proves nothing.
    DurableUptoIgnored = "durable-upto-ignored",
    /// A batch is taken wherever it stands in its file.
    PlaceUnchecked = "place-unchecked",
    /// A segment that is missing between others is not noticed.
    MissingSegmentUnnoticed = "missing-segment-unnoticed",
    /// A segment of another store or shard is passed over.
    ForeignSegmentUnnoticed = "foreign-segment-unnoticed",
    /// Salvage gives up the whole blocks of a batch that is damaged in part.
    BatchGivenUp = "batch-given-up",
    /// What rots in what a salvage had kept of a damaged batch is not noticed.
    AnewUnnoticed = "anew-unnoticed",
    /// Blocks that were carried here and follow damage in the intake ring are replayed, whatever is missing before
    /// them.
    CarriedBehindDamage = "carried-behind-damage",
    /// An end that was adopted is hashed on like a block.
    AdoptedHashedOn = "adopted-hashed-on",
    /// An adopted end in the intake ring is not replayed.
    AdoptedDropped = "adopted-dropped",
    /// What is lost up to an adopted end is not named in the segments that follow.
    AdoptedUnsaid = "adopted-unsaid",
    /// The epoch is taken from the wall clock.
    EpochFromWallClock = "epoch-from-wall-clock",
    /// The epoch stands above those of one shard only.
    EpochOfOneShard = "epoch-of-one-shard",
    /// Batches are written however many are on their way.
    WritesWithoutBound = "writes-without-bound",
    /// A ring that was closed because only the reserve was left stays closed.
    NeverReopens = "never-reopens",
    /// Data files get their final names before the manifest names them.
    RenameBeforeRecord = "rename-before-record",
    /// A data file is not synced before its name is committed.
    FileNotSynced = "file-not-synced",
    /// The folder of temporary files is not synced before a commit.
    TmpFolderNotSynced = "tmp-folder-not-synced",
    /// The folders of final names are not synced.
    FinalFolderNotSynced = "final-folder-not-synced",
    /// Files are removed before the record that replaces them.
    RemoveBeforeRecord = "remove-before-record",
    /// A flush's progress is recorded in a transaction before that of its files.
    ProgressBeforeFiles = "progress-before-files",
    /// Settling does not finish renames.
    RenamesUnfinished = "renames-unfinished",
    /// A sender takes a block now and then for held by a follower that has said it ends just before it.
    ResumesTooFar = "resumes-too-far",
    /// What was taken in is acknowledged to its source before it is synced.
    AcksUnsynced = "acks-unsynced",
    /// A store accepts before the header of its new epoch's segment is synced.
    AcceptsBeforeHeader = "accepts-before-header",
    /// A store that is opened draws no nonce.
    NoNonce = "no-nonce",
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mutant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|mutant| mutant.name()).collect::<Vec<_>>().join(", ");
        let found = Self::ALL.iter().copied().find(|mutant| mutant.name() == text);
        found.ok_or_else(|| format!("'{text}' is not one of {}", names()))
    }
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// One more than the number of the bug that is planted into the whole process; 0: none is.
static EVERYWHERE: AtomicUsize = AtomicUsize::new(0);

/// Plants a bug into every thread of this process, or takes it out again.
pub fn plant_everywhere(mutant: Option<Mutant>) {
    EVERYWHERE.store(mutant.map_or(0, |mutant| mutant as usize + 1), Ordering::Relaxed);
}

/// Plants a bug into this thread, or takes it out.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this bug is planted in this thread, or in the whole process.
#[must_use]
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant) || EVERYWHERE.load(Ordering::Relaxed) == mutant as usize + 1
}
