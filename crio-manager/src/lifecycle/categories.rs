//! The categories of SELinux that tell pods apart: each pod that names no level has two of its own, until it is removed.

use super::Lifecycle;
use crate::drivers::seams::{DriverError, DriverResult, ErrorKind};
use crate::model::SandboxPlan;
use crate::model::selinux::Pair;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The pairs that are taken, and by how many: pods that name their level may share one.
#[derive(Debug, Default)]
pub struct Taken(Mutex<BTreeMap<Pair, usize>>);

/// A pair that is taken; free again when the last claim on it is dropped.
#[derive(Debug)]
pub struct Claim {
    of: Arc<Taken>,
    pair: Pair,
}

impl Taken {
    /// This one, whoever has it too.
    fn claim(self: &Arc<Self>, pair: Pair) -> Claim {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *taken.entry(pair).or_default() += 1;
        Claim { of: self.clone(), pair }
    }

    /// The first that nobody has, from the one of this number on.
    fn claim_free(self: &Arc<Self>, from: u32) -> Option<Claim> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = Pair::all_from(from).find(|pair| !taken.contains_key(pair))?;
        taken.insert(pair, 1);
        Some(Claim { of: self.clone(), pair })
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.pair) {
            Some(claims) if *claims > 1 => *claims -= 1,
            _ => drop(taken.remove(&self.pair)),
        }
    }
}

impl Lifecycle {
    /// Gives the pod a level where it has none and SELinux wants one. `None`: it has one without categories of its own.
    pub(super) fn claim_categories(&self, plan: &mut SandboxPlan) -> DriverResult<Option<Claim>> {
        if self.defaults().selinux.is_none() {
            return Ok(None);
        }
        let taken = &self.room.categories;
        if !plan.selinux.level.is_empty() {
            return Ok(Pair::of_level(&plan.selinux.level).map(|pair| taken.claim(pair)));
        }
        // Ids are random: a pair that was given back is not soon another pod's.
        let number = plan.id.as_str().get(..8).unwrap_or_default();
        let from = u32::from_str_radix(number, 16).unwrap_or_default();
        let all_taken = || DriverError::new(ErrorKind::Exhausted, "all categories of SELinux are taken");
        let claim = taken.claim_free(from).ok_or_else(all_taken)?;
        plan.selinux.level = claim.pair.level();
        Ok(Some(claim))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_free_when_nobody_has_it() {
        let taken = Arc::new(Taken::default());
        let one = taken.claim_free(7).unwrap();
        let next = taken.claim_free(7).unwrap();
        assert_ne!(one.pair, next.pair);
        let again = taken.claim(one.pair);
        let pair = one.pair;
        drop(one);
        assert_ne!(taken.claim_free(7).unwrap().pair, pair, "another still has it");
        drop(again);
        assert_eq!(taken.claim_free(7).unwrap().pair, pair);
        drop(next);
        assert_eq!(taken.count(), 0);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let taken = Arc::new(Taken::default());
        let mut claims: Vec<_> = Pair::all_from(0)
            .take(1024 * 1023)
            .map(|pair| taken.claim(pair))
            .collect();
        assert!(taken.claim_free(3).is_none());
        let last = claims.pop().unwrap().pair;
        claims.retain(|claim| claim.pair != last);
        assert_eq!(taken.claim_free(3).unwrap().pair, last);
    }
}
