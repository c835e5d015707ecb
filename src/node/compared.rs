//! What a comparison with a peer has found, as it is said to whoever asked for it.

use serde::Serialize;

use crate::repl::compare::{Compared, Difference, Side, Standing, What};
use crate::types::{Seq, StoreId, Stream};
use crate::wal::vector::FOLDED;

/// Streams that are listed; of more only how many they are is said.
const LISTED_MAX: usize = 4096;

/// This store and a peer's, compared.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedPeer {
    /// This store.
    pub store: String,
    /// The peer's.
    pub peer: String,
    /// The peer's address.
    pub address: String,
    /// Streams that are the same to the same end.
    pub identical: usize,
    /// Streams of which the peer has more.
    pub behind: usize,
    /// Streams of which the peer has less.
    pub ahead: usize,
    /// Streams that are not the same.
    pub differing: usize,
    /// Streams of which the peer has nothing.
    pub only_here: usize,
    /// Streams of which there is nothing here.
    pub only_there: usize,
    /// Streams, and rows that stand for several, of which one of the two has only one hash over them and others.
    pub folded: usize,
    /// Of those behind, ahead and folded, so many of which the logs cannot tell whether they are the same up to there.
    pub untold: usize,
    /// Of what is not identical, differing ones first, as many as are listed; of folded ones the rows.
    pub streams: Vec<StreamLine>,
    /// How many more there are.
    pub unlisted: usize,
}

/// A stream that is not identical.
#[derive(Clone, Debug, Serialize)]
pub struct StreamLine {
    /// The store that accepted it.
    pub origin: String,
    /// The shard there.
    pub shard: u16,
    /// The opening.
    pub epoch: u64,
    /// The nonce of the opening, as hexadecimal digits.
    pub nonce: String,
    /// `behind`, `ahead`, `differing`, `only-here`, `only-there` or `folded`.
    pub standing: &'static str,
    /// Up to which seq it is here; of folded ones, how many they are.
    pub here: Option<u64>,
    /// Up to which seq it is at the peer; of folded ones, how many they are.
    pub there: Option<u64>,
    /// Up to which seq both are known to be the same; `null` where the logs cannot tell.
    pub identical_upto: Option<u64>,
    /// Where they differ first.
    pub first_difference: Option<FirstDifference>,
}

/// Where two parts of a stream differ first.
#[derive(Clone, Debug, Serialize)]
pub struct FirstDifference {
    /// The first seq of it, where that is known exactly.
    pub seq: Option<u64>,
    /// A seq at which it has begun.
    pub by: Option<u64>,
    /// What is here.
    pub here: Option<Found>,
    /// What is at the peer.
    pub there: Option<Found>,
}

/// What a store has at a seq.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// `block`, `not-in-log` (a block that only data files have), `nothing` or `lost`.
    pub what: &'static str,
    /// Bytes of the block's payload.
    pub bytes: Option<u32>,
    /// CRC-32 of it, as hexadecimal digits.
    pub crc: Option<String>,
}

impl VerifiedPeer {
    /// Of this store and its peer, which listens there.
    #[must_use]
    pub fn new((store, peer): (StoreId, StoreId), address: &str, rows: &[Compared]) -> Self {
        let count = |standing| rows.iter().filter(|row| row.standing == standing).count();
        let differing = rows.iter().filter(|row| row.standing == Standing::Differing);
        let others = rows.iter().filter(|row| row.standing != Standing::Differing && is_told(row));
        let all: Vec<&Compared> = differing.chain(others).collect();
        Self {
            store: store.to_string(),
            peer: peer.to_string(),
            address: address.to_owned(),
            identical: count(Standing::Identical),
            behind: count(Standing::Behind),
            ahead: count(Standing::Ahead),
            differing: count(Standing::Differing),
            only_here: count(Standing::OnlyHere),
            only_there: count(Standing::OnlyThere),
            folded: count(Standing::Folded),
            untold: rows.iter().filter(|row| is_untold(row)).count(),
            streams: all.iter().take(LISTED_MAX).map(|row| StreamLine::new(row)).collect(),
            unlisted: all.len().saturating_sub(LISTED_MAX),
        }
    }
}

/// What is identical needs no line, and of what is folded the row speaks for all.
fn is_told(row: &Compared) -> bool {
    match row.standing {
        Standing::Identical => false,
        Standing::Folded => is_untold(row),
        _ => true,
    }
}

fn is_untold(row: &Compared) -> bool {
    let may_be = match row.standing {
        Standing::Behind | Standing::Ahead => true,
        Standing::Folded => row.stream.nonce == FOLDED,
        Standing::Identical | Standing::Differing | Standing::OnlyHere | Standing::OnlyThere => false,
    };
    may_be && row.identical_upto.is_none()
}

impl StreamLine {
    fn new(row: &Compared) -> Self {
        let Stream { origin, shard, epoch, nonce } = row.stream;
        let seq = |seq: Option<Seq>| seq.map(|seq| seq.0);
        Self {
            origin: origin.to_string(),
            shard: shard.0,
            epoch: epoch.0,
            nonce: format!("{:016x}", nonce.0),
            standing: match row.standing {
                Standing::Identical => "identical",
                Standing::Behind => "behind",
                Standing::Ahead => "ahead",
                Standing::Differing => "differing",
                Standing::OnlyHere => "only-here",
                Standing::OnlyThere => "only-there",
                Standing::Folded => "folded",
            },
            here: seq(row.here),
            there: seq(row.there),
            identical_upto: seq(row.identical_upto),
            first_difference: row.difference.as_ref().and_then(FirstDifference::new),
        }
    }
}

impl FirstDifference {
    fn new(difference: &Difference) -> Option<Self> {
        let nowhere = Self { seq: None, by: None, here: None, there: None };
        match *difference {
            Difference::At { seq, here, there } => {
                let seq = Some(seq.0);
                Some(Self { seq, by: seq, here: Some(Found::new(here)), there: Some(Found::new(there)) })
            }
            Difference::Between { differs: by, .. } | Difference::NotSought { by } => {
                Some(Self { by: Some(by.0), ..nowhere })
            }
            Difference::Lost { side, last, .. } => {
                let lost = Some(Found::new(What::Lost));
                let (here, there) = if side == Side::Here { (lost, None) } else { (None, lost) };
                Some(Self { by: Some(last.0), here, there, ..nowhere })
            }
            Difference::Folded => None,
        }
    }
}

impl Found {
    fn new(what: What) -> Self {
        let plain = |what| Self { what, bytes: None, crc: None };
        match what {
            What::Block { length, payload_crc } => {
                Self { what: "block", bytes: Some(length), crc: Some(format!("{payload_crc:08x}")) }
            }
            What::NotInLog => plain("not-in-log"),
            What::Nothing => plain("nothing"),
            What::Lost => plain("lost"),
        }
    }
}
