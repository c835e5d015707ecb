//! [`Engine`]: a store that is open.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::{Config, IntakeRule, IoChoice, OnDamage};
use crate::data::flusher::{FlushWhen, Flusher};
use crate::data::store::{Admission, Handover, Home, Keeps, Store, StoreError};
use crate::engine::identity::{Identity, StoreLock, replace_file};
use crate::engine::inner::Inner;
use crate::engine::subscription::Subscription;
use crate::engine::writer::Writer;
use crate::error::{Error, Fault};
use crate::io::clock::random_u64;
use crate::io::disk::{Disk, is_no_space};
use crate::io::folder::DirFolder;
use crate::io::maker::Maker;
use crate::io::pwrite::PwriteDisk;
use crate::io::quarantine::QuarantineFolder;
use crate::io::uring::UringDisk;
use crate::io::waker::Waker;
use crate::limits::NAMES_BYTES_MAX;
use crate::reader::LogReader;
use crate::recover::{
    Examined, Intake, OpenError, Opened, RecoveryReport, ShardReport, ShardSetup, carry_out, examine, next_epoch,
    put_aside,
};
use crate::repl::receiver::Receiver;
use crate::report::repair_command;
use crate::shard::core::{Core, CoreConfig};
use crate::shard::driver::Retention;
use crate::shard::handle::ShardHandle;
use crate::shard::marks::Marks;
use crate::shard::ring::{Closed, Ring, Wake};
use crate::shard::shared::{ReadableSegment, SegmentTable, Shared};
use crate::shard::thread::ShardThread;
use crate::stats::{ShardStats, Stats, StoreCounters};
use crate::types::{Cursor, Durability, Epoch, Nonce, Position, Receipt, SegmentNo, Seq, ShardId, StoreId, Stream};
use crate::wal::intake::RingHeader;
use crate::wal::log::LogBounds;

/// How a receipt's block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It was accepted, and then a power cut took it before it was synced, or damage that was salvaged.
    Lost,
    /// It has come this far.
    Durable(Durability),
}

/// A store that is open. Cheap to share behind an `Arc`; dropping it closes it, but only
/// [`close`](Self::close) says how that went.
///
/// It belongs to the process that opened it. In a forked child every call that can fail says
/// [`Error::Forked`], or gives the block back for that reason, and the store is the parent's as before; but the
/// child holds the store's lock, too, until it ends or runs another program.
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
    flusher: Option<Flusher>,
    /// How what the sink holds is handed on; not with those who may outlive this.
    pub(crate) handover: Option<Arc<dyn Handover>>,
    report: RecoveryReport,
    _lock: StoreLock,
}

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self);
    }
}

impl Engine {
    /// Opens the store in `config`'s folder, or makes one; recovers first. Blocks leave the log once they
    /// are in Parquet files below the folder `data`, see [`ParquetStore`](crate::data::parquet::ParquetStore).
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::InUse`], [`Error::Damaged`], [`Error::Io`], [`Error::Store`]; the store
    /// is unchanged where acknowledged data is damaged.
    #[cfg(feature = "parquet")]
    pub fn open(config: Config) -> Result<Self, Error> {
        Self::open_with(config, Box::new(crate::data::parquet::ParquetStore::default()))
    }

    /// The same with another sink for blocks: an own one, or [`Null`](crate::store::Null) for the log alone.
    /// A store stays with its sink: blocks that one has taken no other will get.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(mut config: Config, mut store: Box<dyn Store>) -> Result<Self, Error> {
        config.check()?;
        let dir = config.dir.clone();
        fs::create_dir_all(&dir).map_err(Error::io(format!("making {}", dir.display())))?;
        let lock = StoreLock::take(&dir)?;
        let (identity, _) = Identity::open(&mut config)?;
        let boot = boot_id()?;
        let failed = |error: StoreError| Error::Store(error.to_string());
        let counters = Arc::new(StoreCounters::default());
        let home = Home {
            dir: &dir,
            store: identity.store(),
            shards: identity.shards,
            boot,
            on_damage: config.on_damage,
            counters: &counters,
        };
        store.open(&home).map_err(failed)?;
        let keeps = store.keeps();
        let (mut opening, mut from) = (Vec::new(), Vec::new());
        for shard in 0..identity.shards {
            let shard = ShardId(shard as u16);
            let progress = store.progress(shard).map_err(failed)?;
            let flushed = progress.map_or(Seq(0), |at| at.seq);
            let examined = Opening::examine(&config, identity.store(), shard, boot, flushed)?;
            from.push(examined.flush_from(progress, &config)?);
            opening.push(examined);
        }
        let epoch = next_epoch(opening.iter().map(|opening| &opening.examined));
        // 0 is the nonce of folded rows.
        let nonce = Nonce(random_u64().max(1));
        #[cfg(feature = "sim")]
        let nonce = if crate::planted::is_planted(crate::planted::Mutant::NoNonce) { Nonce(1) } else { nonce };
        let mut quarantine = QuarantineFolder::new(&dir, epoch);
        let cpus = cpus(&config);
        let mut shards = Vec::new();
        let mut starting = Vec::new();
        let mut report = RecoveryReport {
            schema: "forebay.recovery/1",
            store: identity.store().to_string(),
            epoch: epoch.0,
            shards: Vec::new(),
        };
        let mut io = "uring";
        for opening in opening {
            let own = Stream { origin: identity.store(), shard: opening.shard, epoch, nonce };
            let started = opening.start(&config, own, boot, &mut quarantine, keeps)?;
            io = started.io;
            report.shards.push(started.report);
            shards.push(started.handle);
            starting.push(started.thread);
        }
        let (admission, handover) = (store.admission(), store.handover());
        if let Some(admission) = &admission {
            for (shard, from) in shards.iter().zip(&from) {
                learn(shard, *from, &**admission)?;
            }
        }
        let text = serde_json::to_string_pretty(&report).expect("plain fields");
        match replace_file(&dir, "recovery-report.json.tmp", "recovery-report.json", text.as_bytes()) {
            Err(Error::Io { context, cause }) if is_no_space(&cause) => {
                tracing::warn!("{context}: {cause}. The store opens without; this is the report: {text}");
            }
            other => other?,
        }
        log_report(&report);
        if config.hold_for_subscriber {
            // Before a shard's thread can trim anything.
            for shard in &shards {
                shard.shared.hold(0, Some(Seq(0)));
            }
        }
        let mut threads = Vec::new();
        for (index, mut thread) in starting.into_iter().enumerate() {
            thread.cpu = (!cpus.is_empty()).then(|| cpus[index % cpus.len()]);
            threads.push(thread.spawn().map_err(Error::io("starting a shard's thread"))?);
        }
        let wal_bytes_max = config.segments_max(identity.shards) * config.segment_bytes * identity.shards as u64;
        let ends = shards.iter().flat_map(|shard| shard.before.iter().map(|(stream, end)| (*stream, *end))).collect();
        let receiver = Receiver::new(identity.store(), ends, shards.iter().map(|shard| shard.own).collect());
        let inner = Arc::new(Inner {
            policy: config.sync_policy(),
            shards: shards.into(),
            next_shard: AtomicUsize::new(0),
            next_reader: AtomicUsize::new(1),
            held_at_open: Mutex::new(config.hold_for_subscriber),
            io,
            cpus: (0..if cpus.is_empty() { 0 } else { identity.shards })
                .map(|index| cpus[index % cpus.len()])
                .collect(),
            wal_bytes_max,
            counters,
            admission,
            receiver: Mutex::new(receiver),
            config,
        });
        if !inner.shards.iter().all(|shard| shard.ring.is_shared_file()) {
            tracing::warn!(
                "the intake ring's folder is on a file system whose mappings cannot be trusted: the intake is plain \
                 memory, and a block is acknowledged when it is written to the log. intake_dir can put it elsewhere"
            );
        }
        let flusher = match keeps {
            Keeps::Blocks => {
                let when = FlushWhen {
                    bytes: inner.config.buffer_bytes,
                    period: Duration::from_millis(inner.config.flush_period_ms),
                    log_bytes: inner.config.log_bytes(identity.shards),
                };
                Some(Flusher::start(&inner.shards, &from, when, &inner.counters, store)?)
            }
            Keeps::Nothing | Keeps::Log => None,
        };
        let this = Self { inner, threads, flusher, handover, report, _lock: lock };
        if let Some(handover) = &this.handover {
            // A takeover that was cut short before the log had it.
            let adopted = handover.adopted().map_err(failed)?;
            this.inner.adopt_or_take_nothing(&adopted)?;
        }
        Ok(this)
    }

    /// A writer for a namespace, bound to a shard: order is kept per writer. Writers are spread
    /// evenly over shards as they are made; a clone stays with the shard of its original.
    ///
    /// # Errors
    /// A namespace longer than 255 bytes.
    pub fn writer(&self, namespace: &str) -> Result<Writer, Error> {
        self.inner.not_forked()?;
        if namespace.len() > NAMES_BYTES_MAX {
            return Err(Error::Config(format!("the namespace is {} bytes long; at most 255 fit", namespace.len())));
        }
        let shard = self.inner.next_shard.fetch_add(1, Ordering::Relaxed) % self.inner.shards.len();
        Ok(Writer::new(Arc::clone(&self.inner), namespace.into(), shard))
    }

    /// Where each shard stands.
    #[must_use]
    pub fn marks(&self) -> Vec<Marks> {
        self.inner.shards.iter().map(|shard| shard.marks()).collect()
    }

    /// Why a shard has stopped, if one has: it acknowledges nothing more until the store is opened again.
    #[must_use]
    pub fn fault(&self) -> Option<Arc<Fault>> {
        self.inner.shards.iter().find_map(|shard| shard.shared.fault())
    }

    /// Counters since open.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let counted = |shard: &ShardHandle| {
            let paced_ns = shard.shared.pace.waited().as_nanos() as u64;
            ShardStats { paced_ns, ..shard.shared.stats().clone() }
        };
        let shards: Vec<ShardStats> = inner.shards.iter().map(counted).collect();
        let shared = inner.shards.iter().all(|shard| shard.ring.is_shared_file());
        Stats::sum(&shards, inner.io, inner.cpus.clone(), shared, inner.wal_bytes_max, inner.counters.read())
    }

    /// What the open found and did.
    #[must_use]
    pub const fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// How far a receipt's block has come.
    ///
    /// # Errors
    /// [`Error::UnknownReceipt`] where it is not of this store, or older than the retained log.
    pub fn status_of(&self, receipt: &Receipt) -> Result<Status, Error> {
        self.inner.not_forked()?;
        let shard = self.inner.shard_of(receipt)?;
        if receipt.stream != shard.own {
            // Of an earlier opening: what recovery found is synced, the rest is lost.
            let end = shard.before.get(&receipt.stream).ok_or(Error::UnknownReceipt)?;
            let there = receipt.seq <= end.seq && !shard.gaps.iter().any(|gap| gap.is_of(receipt));
            return Ok(if there { Status::Durable(Durability::Synced) } else { Status::Lost });
        }
        let marks = shard.marks();
        if receipt.seq > marks.accepted {
            return Err(Error::UnknownReceipt);
        }
        Ok(Status::Durable(match receipt.seq {
            seq if shard.shared.shipping.count(seq) > 0 => Durability::Shipped(shard.shared.shipping.count(seq)),
            seq if seq <= marks.flushed => Durability::Flushed,
            seq if seq <= marks.synced => Durability::Synced,
            seq if seq <= marks.written => Durability::Written,
            _ => Durability::Accepted,
        }))
    }

    /// Waits until a receipt's block is as safe as asked; waiting for `Synced` starts a sync.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where its shard failed first, or too few followers had it within
    /// `shipped_deadline_ms`; [`Error::UnknownReceipt`].
    pub fn wait(&self, receipt: &Receipt, durability: Durability) -> Result<(), Error> {
        self.inner.not_forked()?;
        let shard = self.inner.shard_of(receipt)?;
        if receipt.stream == shard.own {
            return shard.wait(receipt.seq, durability);
        }
        match self.status_of(receipt)? {
            // It is somewhere in what was there at the open.
            Status::Durable(_) if matches!(durability, Durability::Shipped(_)) => {
                shard.wait(shard.marks().accepted, durability)
            }
            Status::Durable(_) => Ok(()),
            Status::Lost => Err(Error::UnknownReceipt),
        }
    }

    /// Waits until everything that was accepted so far is synced.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where a shard failed first.
    pub fn sync(&self) -> Result<(), Error> {
        self.inner.sync()
    }

    /// Reads the log from a cursor on: all shards, each in its order. Holds the log from there,
    /// within the retention options.
    ///
    /// # Errors
    /// [`Error::Behind`], [`Error::Rewound`].
    pub fn subscribe(&self, cursor: Cursor) -> Result<Subscription, Error> {
        self.inner.not_forked()?;
        Subscription::new(Arc::clone(&self.inner), cursor)
    }

    /// Takes nothing more, writes, syncs and flushes what was taken, seals the log, and ends all threads.
    ///
    /// # Errors
    /// The first fault; what was acknowledged at `synced` is safe all the same.
    pub fn close(mut self) -> Result<(), Error> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), Error> {
        if self.inner.is_forked() {
            // The threads are the parent's: whoever waited for them here would never come back.
            std::mem::forget((std::mem::take(&mut self.threads), self.flusher.take()));
            return Err(Error::Forked);
        }
        for shard in self.inner.shards.iter() {
            shard.ring.close(Closed::Closing);
        }
        let flushed = self.flusher.take().map_or(Ok(()), Flusher::close);
        for shard in self.inner.shards.iter() {
            shard.shared.request_stop();
        }
        let mut panicked = false;
        for thread in self.threads.drain(..) {
            panicked |= thread.join().is_err();
        }
        for shard in self.inner.shards.iter() {
            // Writers may outlive the engine; the store must not stay locked for that.
            shard.folder.release();
        }
        let fault = self.inner.shards.iter().find_map(|shard| shard.shared.fault());
        match fault {
            Some(fault) => Err(Error::Fault(fault)),
            None if panicked => Err(Error::Store("a shard's thread panicked".to_owned())),
            None => flushed,
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.threads.is_empty()
            && let Err(error) = self.shut_down()
            && !matches!(error, Error::Forked)
        {
            tracing::error!("closing {}: {error}", self.inner.config.dir.display());
        }
    }
}

/// A shard between its examination and its start.
struct Opening {
    shard: ShardId,
    folder: Arc<DirFolder>,
    ring_path: std::path::PathBuf,
    ring_image: Option<Vec<u8>>,
    examined: Examined,
    flushed: Seq,
}

struct Started {
    handle: ShardHandle,
    thread: ShardThread,
    report: ShardReport,
    /// How it writes.
    io: &'static str,
}

impl Opening {
    fn examine(config: &Config, store: StoreId, shard: ShardId, boot: [u8; 16], flushed: Seq) -> Result<Self, Error> {
        let dir = config.dir.join(format!("shard-{:04}", shard.0));
        fs::create_dir_all(&dir).map_err(Error::io(format!("making {}", dir.display())))?;
        sync_dir(&config.dir)?;
        let folder = DirFolder::open(&dir).map_err(Error::io(format!("opening {}", dir.display())))?;
        let folder = Arc::new(folder);
        let ring_dir =
            config.intake_dir.as_ref().map_or(dir.clone(), |other| other.join(format!("shard-{:04}", shard.0)));
        fs::create_dir_all(&ring_dir).map_err(Error::io(format!("making {}", ring_dir.display())))?;
        let ring_path = ring_dir.join("intake.ring");
        let ring_image = read_ring(&ring_path)?;
        let setup = ShardSetup {
            store,
            shard,
            boot,
            segment_bytes: config.segment_bytes,
            bounds: bounds(config),
            batch_bytes_max: config.batch_bytes_max as usize,
            on_damage: config.on_damage,
            flushed,
            intake: match config.intake_rule {
                IntakeRule::ByBoot => Intake::Ring,
                IntakeRule::AsPowerCut => Intake::RingAfterPowerCut,
            },
        };
        let mut waited = Duration::ZERO;
        let mut read = Progress::new(shard);
        let examined = loop {
            match examine(&*folder, &setup, ring_image.as_deref(), &mut |bytes| read.add(bytes)) {
                Ok(examined) => break examined,
                Err(OpenError::Locked(name)) => {
                    // Writes of a killed process go on landing; its file's lock lasts as long.
                    if waited.as_millis().is_multiple_of(1000) {
                        tracing::info!("shard {shard}: waiting for writes of an earlier process to {name}");
                    }
                    let nap = Duration::from_millis(20);
                    std::thread::sleep(nap);
                    waited += nap;
                }
                Err(OpenError::Damaged(mut damaged)) => {
                    damaged.command = repair_command(Some(&config.dir), config.intake_dir.as_deref());
                    return Err(Error::Damaged(damaged));
                }
                Err(OpenError::Io { context, source }) => {
                    return Err(Error::io(format!("shard {shard}: {context}"))(source));
                }
                Err(other @ (OpenError::Foreign { .. } | OpenError::TooDamaged { .. })) => {
                    return Err(Error::Config(other.to_string()));
                }
            }
        };
        // A ring of which nothing is replayed is not carried along: rings are large.
        let ring_image = ring_image.filter(|_| examined.needs_ring_image());
        Ok(Self { shard, folder, ring_path, ring_image, examined, flushed })
    }

    /// Where the flusher goes on: the store's progress, if the log reaches back that far.
    fn flush_from(&self, progress: Option<Position>, config: &Config) -> Result<Position, Error> {
        let (Some(at), Some(first)) = (progress, self.examined.first_seq()) else {
            return Ok(progress.unwrap_or_default());
        };
        if at.seq.next() >= first {
            return Ok(at);
        }
        let gap = format!(
            "shard {}: the store holds blocks up to seq {}, and the log begins at seq {first}: what was between has been \
             trimmed, because the store said that it had it",
            self.shard, at.seq
        );
        if config.on_damage == OnDamage::Refuse {
            let command = repair_command(Some(&config.dir), config.intake_dir.as_deref());
            return Err(Error::Store(format!(
                "{gap}. Not opened. To go on: restore the store's data and its manifest as they were, or go on at the log's \
                 beginning: {command} | on_damage=salvage"
            )));
        }
        tracing::warn!("{gap}; going on at the log's beginning");
        Ok(Position::default())
    }

    fn start(
        self,
        config: &Config,
        own: Stream,
        boot: [u8; 16],
        quarantine: &mut QuarantineFolder,
        keeps: Keeps,
    ) -> Result<Started, Error> {
        let bounds = bounds(config);
        let spares_max = bounds.reserve as usize + crate::limits::SEGMENTS_AHEAD + 1;
        let mut maker = Maker::new(own.origin, self.shard, config.segment_bytes, spares_max, Box::new(random_u64));
        let image = self.ring_image.as_deref();
        let failed = |error| match error {
            OpenError::Io { context, source } => Error::io(format!("shard {}: {context}", self.shard))(source),
            other => Error::Config(other.to_string()),
        };
        put_aside(&self.examined, &*self.folder, quarantine, image).map_err(failed)?;
        let waker = Waker::new().map_err(Error::io("making an eventfd"))?;
        let wake: Arc<dyn Wake> = waker.clone();
        let ring_header = |epoch, first_seq| RingHeader {
            store: own.origin,
            shard: self.shard,
            boot,
            epoch,
            nonce: own.nonce,
            first_seq,
            slots: config.intake_slots as u32,
            bytes: config.intake_bytes,
        };
        let make_ring = |header: RingHeader| {
            Ring::create(&self.ring_path, &header, Arc::clone(&wake))
                .map_err(Error::io(format!("making {}", self.ring_path.display())))
        };
        if self.examined.needs_new_ring() {
            make_ring(ring_header(Epoch(0), Seq(1)))?;
        }
        let Opened { log, gaps, partly, report } =
            carry_out(self.examined, &*self.folder, &mut maker, own, image).map_err(failed)?;
        drop(self.ring_image);
        let (ring, consumer) = make_ring(ring_header(own.epoch, log.last_seq().next()))?;
        let handled = log.current.header.handled.clone();
        let mut table = SegmentTable { handled, partly, ..SegmentTable::default() };
        for used in log.used.iter() {
            table.handled.extend(used.header.handled.iter().copied());
            let segment =
                ReadableSegment { header: used.header.clone(), first_seq: used.first_seq, end: Some(used.end) };
            table.segments.push_back(segment);
        }
        table.begin(&log.current);
        let before = log.ends.clone();
        let written = log.used.iter().chain([&log.current]).map(|used| used.header.segment);
        let writable: Vec<_> = written.chain(log.ready.iter().map(|header| header.segment)).collect();
        let (disk, io) = open_disk(config.io, Arc::clone(&self.folder), maker, &writable, waker)?;
        let core_config =
            CoreConfig { own, policy: config.sync_policy(), batch_bytes_max: config.batch_bytes_max as usize, bounds };
        let core = Core::new(core_config, log, self.flushed);
        if core.is_store_full() {
            ring.close(Closed::StoreFull);
        }
        let shared = Arc::new(Shared::new(core.marks(), config.sync_policy(), wake, table));
        let retention = Retention {
            keeps,
            period_ns: config.wal_retention_period_s.saturating_mul(1_000_000_000),
            segments: match config.wal_retention_size {
                0 => u64::MAX,
                bytes => (bytes / config.shards_wanted() as u64).div_ceil(config.segment_bytes),
            },
            pressure_segments: bounds.segments_max.saturating_sub(1),
        };
        let handle = ShardHandle {
            shard: self.shard,
            own,
            ring: Arc::clone(&ring),
            shared: Arc::clone(&shared),
            folder: self.folder,
            before,
            gaps,
            shipped_deadline: Duration::from_millis(config.shipped_deadline_ms),
        };
        let thread = ShardThread { shard: self.shard, core, disk, consumer, ring, shared, retention, cpu: None };
        Ok(Started { handle, thread, report, io })
    }
}

/// Shows blocks that are in the log and not in the store to whoever judges those that come.
fn learn(shard: &ShardHandle, from: Position, admission: &dyn Admission) -> Result<(), Error> {
    let (folder, shared) = (Arc::clone(&shard.folder), Arc::clone(&shard.shared));
    let mut reader = LogReader::new(shard.shard, folder, shared, true, from)?;
    while let Some(delivered) = reader.next_ready()? {
        admission.learn(&delivered.namespace, &delivered.block);
    }
    Ok(())
}

fn bounds(config: &Config) -> LogBounds {
    LogBounds { segments_max: config.segments_max(config.shards_wanted()), reserve: config.reserve_segments() }
}

/// io_uring, or threads where it is blocked and the choice is open; and the word for what it is. `ready` are
/// the segments that can be written at once.
pub(crate) fn open_disk(
    choice: IoChoice,
    folder: Arc<DirFolder>,
    maker: Maker,
    ready: &[SegmentNo],
    waker: Arc<Waker>,
) -> Result<(Box<dyn Disk + Send>, &'static str), Error> {
    let uring = match choice {
        IoChoice::Pwrite => false,
        IoChoice::Uring => true,
        IoChoice::Auto => match crate::io::uring::available() {
            Ok(()) => true,
            Err(error) => {
                // Once in a process: what blocks it does so for every shard and store.
                static WARNED: Once = Once::new();
                WARNED.call_once(|| {
                    tracing::warn!("io_uring cannot be used: {error}. Writing with pwrite threads instead");
                });
                false
            }
        },
    };
    if uring {
        let disk = UringDisk::new(folder, maker, ready, waker).map_err(Error::io("setting io_uring up"))?;
        Ok((Box::new(disk), "uring"))
    } else {
        let disk = PwriteDisk::new(folder, maker, ready, waker).map_err(Error::io("starting the pwrite threads"))?;
        Ok((Box::new(disk), "pwrite"))
    }
}

/// The running boot's id.
pub(crate) fn boot_id() -> Result<[u8; 16], Error> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).map_err(Error::io(format!("reading {PATH}")))?;
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b'-').collect();
    let mut id = [0; 16];
    let pairs = digits.chunks_exact(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let count = pairs.zip(&mut id).map(|(byte, place)| *place = byte).count();
    if count == 16 { Ok(id) } else { Err(Error::Config(format!("{PATH} holds no boot id: {text:?}"))) }
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(format!("syncing {}", dir.display())))
}

/// The ring file as it stands, through the page cache, which is where its entries live.
pub(crate) fn read_ring(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let most = *crate::limits::INTAKE_BYTES.end() + *crate::limits::INTAKE_SLOTS.end() * 64 + (1 << 20);
    match fs::metadata(path) {
        Ok(found) if found.len() > most => {
            Err(Error::Config(format!("{} is {} bytes long; no ring is", path.display(), found.len())))
        }
        Ok(_) => fs::read(path).map(Some).map_err(Error::io(format!("reading {}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("reading {}", path.display()))(error)),
    }
}

/// The CPUs to pin to: those named, else all that this process may use; none if told so.
fn cpus(config: &Config) -> Vec<usize> {
    let all = || core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    config.cpus.clone().unwrap_or_else(all)
}

/// Says how far the reading of a long log has come, once a second.
struct Progress {
    shard: ShardId,
    bytes: u64,
    began: std::time::Instant,
    said: std::time::Instant,
}

impl Progress {
    fn new(shard: ShardId) -> Self {
        let now = std::time::Instant::now();
        Self { shard, bytes: 0, began: now, said: now }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.said.elapsed() >= Duration::from_secs(1) {
            self.said = std::time::Instant::now();
            let seconds = self.began.elapsed().as_secs_f64();
            let mib = self.bytes as f64 / (1 << 20) as f64;
            tracing::info!("shard {}: read {mib:.0} MiB of log, {:.0} MiB/s", self.shard, mib / seconds);
        }
    }
}

fn log_report(report: &RecoveryReport) {
    for shard in &report.shards {
        for torn in &shard.torn {
            tracing::info!(
                "shard {}: torn tail in segment {} at {:#x}..{:#x}, copied to quarantine",
                shard.shard,
                torn.segment,
                torn.offset,
                torn.upto
            );
        }
        for damage in &shard.damage {
            tracing::warn!("damage salvaged: {damage}");
        }
        if let Some(ring) = &shard.ring {
            tracing::warn!("shard {}: intake ring: {ring}", shard.shard);
        }
        if shard.replayed_blocks > 0 {
            tracing::info!("shard {}: {} blocks replayed from the intake ring", shard.shard, shard.replayed_blocks);
        }
    }
}
