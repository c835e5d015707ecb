//! Which rows a client's retry repeated: of rows that are equal in everything the client wrote, and that
//! one store accepted in different blocks, those of the last block stay.

use std::cmp::Reverse;
use std::collections::HashMap;

/// Takes out of these rows, all with the same tags and time, those that are repeated; in any order.
///
/// `block` tells the blocks of one store apart and orders them by when they were accepted; `is_same` says
/// whether two rows have the same fields and origin, and `hash` is equal for those that do.
pub fn keep_last<R, B: Ord>(
    rows: &mut Vec<R>,
    block: impl Fn(&R) -> B,
    hash: impl Fn(&R) -> u64,
    is_same: impl Fn(&R, &R) -> bool,
) {
    if rows.len() < 2 {
        return;
    }
    // Those of later blocks first, so that each row is compared with what stays only.
    rows.sort_by_key(|row| Reverse(block(row)));
    let mut kept: HashMap<u64, Vec<R>> = HashMap::new();
    for row in rows.drain(..) {
        let alike = kept.entry(hash(&row)).or_default();
        if !alike.iter().any(|later| block(later) != block(&row) && is_same(later, &row)) {
            alike.push(row);
        }
    }
    rows.extend(kept.into_values().flatten());
}
