//! Who may accept: roles, terms and fencing, as a state machine without I/O.
//!
//! Promises: a term is never taken back; whoever meets a higher one is not active any more before anything else is
//! done (P7); of two that were promoted to the same term while they could not meet, one yields, the same one on both
//! sides. What changed must be durable before it counts: see [`Roles::meet`].

use crate::error::NotActive;
use crate::repl::wire::{Role, Stand};
use crate::types::{StoreId, Term};

/// The role of one store.
#[derive(Clone, Debug)]
pub struct Roles {
    store: StoreId,
    stand: Stand,
    /// An active store that starts again may have been replaced meanwhile.
    heard: bool,
}

impl Roles {
    /// The role of this store as it stood when it was stopped. Unless it is to start alone, or has no peers, it
    /// accepts nothing before it has heard from one.
    #[must_use]
    pub const fn new(store: StoreId, stand: Stand, starts_alone: bool) -> Self {
        Self { store, stand, heard: starts_alone }
    }

    /// Where it stands: what is to be written, and said.
    #[must_use]
    pub const fn stand(&self) -> Stand {
        self.stand
    }

    /// Whether blocks of clients may be accepted.
    ///
    /// # Errors
    /// [`NotActive`].
    pub fn accepts(&self) -> Result<(), NotActive> {
        let Stand { role, term, active } = self.stand;
        match role {
            Role::Active | Role::ActiveActive if self.heard => Ok(()),
            Role::Active | Role::ActiveActive => Err(NotActive::Waiting),
            Role::Standby if active == StoreId::default() || active == self.store => Err(NotActive::Standby),
            Role::Standby => Err(NotActive::Fenced { term, active }),
        }
    }

    /// Takes in what a peer says of itself, before anything else that it says. True where this store stands elsewhere
    /// now: that must be durable before the peer is answered, and from this call on nothing is accepted that
    /// [`accepts`](Self::accepts) refuses.
    pub fn meet(&mut self, peer: StoreId, theirs: Stand) -> bool {
        let before = self.stand;
        let knows_active = theirs.active != StoreId::default();
        if theirs.term > self.stand.term {
            (self.stand.term, self.stand.active) = (theirs.term, theirs.active);
        } else if theirs.term == self.stand.term && knows_active && wins(theirs.active, self.stand.active) {
            self.stand.active = theirs.active;
        }
        let other_is_active = self.stand.active != self.store && self.stand.active != StoreId::default();
        if other_is_active || self.stand.role == Role::Active && self.stand.active != self.store {
            self.stand.role = Role::Standby;
        }
        self.heard |= peer != self.store;
        self.stand != before
    }

    /// Makes it the active one, under a term above every one that it knows. To be made durable before it counts.
    pub fn promote(&mut self) {
        self.stand = Stand { role: Role::Active, term: Term(self.stand.term.0 + 1), active: self.store };
        self.heard = true;
    }

    /// Makes it one of several that accept, under a term above every one that it knows, so that it fences the one that
    /// was active. As [`promote`](Self::promote).
    pub fn share(&mut self) {
        let term = Term(self.stand.term.0 + 1);
        self.stand = Stand { role: Role::ActiveActive, term, active: StoreId::default() };
        self.heard = true;
    }

    /// Makes it a standby; nobody is active then under its term until another is promoted.
    pub fn demote(&mut self) {
        self.stand.role = Role::Standby;
    }
}

/// Of two stores that were promoted to one term, the same one wins wherever they are compared.
fn wins(one: StoreId, other: StoreId) -> bool {
    other == StoreId::default() || one < other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::chance::Chance;

    fn store(number: u8) -> StoreId {
        StoreId([number; 16])
    }

    fn roles(number: u8, role: Role, term: u64, active: u8) -> Roles {
        Roles::new(store(number), Stand { role, term: Term(term), active: store(active) }, false)
    }

    #[test]
    fn an_active_store_that_starts_again_waits_until_it_has_heard_from_a_peer() {
        let mut one = roles(1, Role::Active, 7, 1);
        assert_eq!(one.accepts(), Err(NotActive::Waiting));
        assert!(!one.meet(store(2), Stand { role: Role::Standby, term: Term(7), active: store(1) }));
        assert_eq!(one.accepts(), Ok(()));
        let alone = Roles::new(store(1), Stand { role: Role::Active, term: Term(7), active: store(1) }, true);
        assert_eq!(alone.accepts(), Ok(()));
    }

    #[test]
    fn who_meets_a_higher_term_is_fenced_and_names_the_active_store() {
        let mut one = roles(1, Role::Active, 7, 1);
        let mut two = roles(2, Role::Standby, 7, 1);
        two.promote();
        assert!(one.meet(store(2), two.stand()), "it stands elsewhere now");
        assert_eq!(one.stand(), Stand { role: Role::Standby, term: Term(8), active: store(2) });
        let refusal = one.accepts().expect_err("it is fenced");
        assert_eq!(refusal.to_string(), "fenced: term 8 is active at 02020202-0202-0202-0202-020202020202");
        assert!(!two.meet(store(1), one.stand()));
        assert_eq!(two.accepts(), Ok(()));
        // A third store may bring the news.
        let mut three = roles(3, Role::Standby, 7, 1);
        assert!(three.meet(store(1), one.stand()));
        assert_eq!(three.stand(), one.stand());
    }

    #[test]
    fn of_two_that_were_promoted_to_one_term_the_same_one_yields_on_both_sides() {
        let (mut one, mut two) = (roles(1, Role::Standby, 3, 9), roles(2, Role::Standby, 3, 9));
        one.promote();
        two.promote();
        let (of_one, of_two) = (one.stand(), two.stand());
        assert!(!one.meet(store(2), of_two));
        assert!(two.meet(store(1), of_one));
        assert_eq!((one.accepts(), two.stand().role), (Ok(()), Role::Standby));
    }

    #[test]
    fn stores_that_are_all_active_do_not_fence_each_other() {
        let mut one = roles(1, Role::ActiveActive, 0, 0);
        assert!(!one.meet(store(2), Stand { role: Role::ActiveActive, ..Stand::default() }));
        assert_eq!(one.accepts(), Ok(()));
        assert_eq!(roles(1, Role::Standby, 0, 0).accepts(), Err(NotActive::Standby));
    }

    #[test]
    fn one_that_is_promoted_fences_those_that_accepted_beside_it_and_all_can_accept_again() {
        let mut all: Vec<Roles> = (1..=3).map(|number| roles(number, Role::ActiveActive, 0, 0)).collect();
        let meet = |all: &mut Vec<Roles>| {
            for (at, peer) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                let theirs = all[peer].stand();
                all[at].meet(store(peer as u8 + 1), theirs);
            }
        };
        meet(&mut all);
        assert!(all.iter().all(|one| one.accepts().is_ok()));
        all[1].promote();
        meet(&mut all);
        let accepts: Vec<bool> = all.iter().map(|one| one.accepts().is_ok()).collect();
        assert_eq!(accepts, [false, true, false]);
        // One after the other, each knows of those before it.
        for at in [0, 2, 1] {
            all[at].share();
            meet(&mut all);
        }
        assert!(all.iter().all(|one| one.accepts().is_ok()), "{all:?}");
    }

    /// Three stores that meet, are promoted, demoted and started again, in any order.
    #[test]
    fn in_every_history_one_store_at_most_is_left_active_where_all_have_met() {
        for seed in 0..20_000 {
            let mut chance = Chance::new(seed);
            let mut all: Vec<Roles> = (1..=3).map(|number| roles(number, Role::Standby, 0, 0)).collect();
            for _ in 0..chance.within(1, 30) {
                let at = chance.below(3) as usize;
                let before = all[at].stand();
                match chance.below(6) {
                    0 => all[at].promote(),
                    1 => all[at].demote(),
                    2 => all[at] = Roles::new(store(at as u8 + 1), before, false),
                    _ => {
                        let peer = (at + 1 + chance.below(2) as usize) % 3;
                        let theirs = all[peer].stand();
                        all[at].meet(store(peer as u8 + 1), theirs);
                    }
                }
                assert!(all[at].stand().term >= before.term, "seed {seed}: a term is never taken back");
            }
            for (at, peer) in (0..2).flat_map(|_| [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)]) {
                let theirs = all[peer].stand();
                all[at].meet(store(peer as u8 + 1), theirs);
            }
            let active: Vec<_> = all.iter().filter(|one| one.accepts().is_ok()).map(|one| one.store).collect();
            assert!(active.len() <= 1, "seed {seed}: {active:?}");
            let stands: Vec<_> = all.iter().map(|one| (one.stand().term, one.stand().active)).collect();
            assert!(stands.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: {stands:?}");
        }
    }
}
