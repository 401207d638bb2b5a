//! Which member of a group gets which partition. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::head::Place;
use crate::Topic;

/// Numbers members in the order in which they joined.
pub(super) type MemberId = u64;

/// Shares partitions evenly among the members that want their topic. A partition stays where it is unless its owner has at
/// least two more than another member that wants it: what need not move is not disturbed.
pub(super) fn assign(
    members: &BTreeMap<MemberId, BTreeSet<Topic>>,
    places: &BTreeSet<Place>,
    owners: &BTreeMap<Place, MemberId>,
) -> BTreeMap<Place, MemberId> {
    let wants = |member: &MemberId, place: &Place| members.get(member).is_some_and(|topics| topics.contains(&place.0));
    let mut counts: BTreeMap<MemberId, usize> = members.keys().map(|member| (*member, 0)).collect();
    let mut assigned = BTreeMap::new();
    for place in places {
        if let Some(owner) = owners.get(place).filter(|owner| wants(owner, place)) {
            assigned.insert(*place, *owner);
            *counts.entry(*owner).or_default() += 1;
        }
    }
    for place in places {
        if assigned.contains_key(place) {
            continue;
        }
        if let Some(member) = least(&counts, |member| wants(member, place)) {
            assigned.insert(*place, member);
            *counts.entry(member).or_default() += 1;
        }
    }
    while let Some((place, from, to)) = assigned.iter().find_map(|(place, owner)| {
        let to = least(&counts, |member| wants(member, place))?;
        (counts.get(owner)? >= &(counts.get(&to)? + 2)).then_some((*place, *owner, to))
    }) {
        assigned.insert(place, to);
        *counts.entry(from).or_default() -= 1;
        *counts.entry(to).or_default() += 1;
    }
    assigned
}

fn least(counts: &BTreeMap<MemberId, usize>, wants: impl Fn(&MemberId) -> bool) -> Option<MemberId> {
    counts.iter().filter(|(member, _)| wants(member)).min_by_key(|(_, count)| **count).map(|(member, _)| *member)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(ids: impl IntoIterator<Item = MemberId>) -> BTreeMap<MemberId, BTreeSet<Topic>> {
        ids.into_iter().map(|id| (id, BTreeSet::from([Topic::Deliveries]))).collect()
    }

    fn places(count: i32) -> BTreeSet<Place> {
        (0..count).map(|partition| (Topic::Deliveries, partition)).collect()
    }

    #[test]
    fn a_member_that_wants_other_topics_gets_none() {
        let mut members = members([1]);
        members.insert(2, BTreeSet::from([Topic::Messages]));
        let assigned = assign(&members, &places(3), &BTreeMap::new());
        assert!(assigned.len() == 3 && assigned.values().all(|owner| *owner == 1));
    }

    proptest! {
        #[test]
        fn all_partitions_are_owned_evenly_and_as_few_as_can_be_move(
            count in 0..40i32, before in prop::collection::btree_set(0..8u64, 0..6), now in prop::collection::btree_set(0..8u64, 1..6),
        ) {
            let places = places(count);
            let owners = assign(&members(before.clone()), &places, &BTreeMap::new());
            let assigned = assign(&members(now.clone()), &places, &owners);
            prop_assert_eq!(assigned.keys().copied().collect::<BTreeSet<_>>(), places);
            let share = |member: &MemberId| assigned.values().filter(|owner| *owner == member).count();
            let (most, least) = (now.iter().map(share).max().unwrap_or(0), now.iter().map(share).min().unwrap_or(0));
            prop_assert!(most - least <= 1);
            for member in now.intersection(&before) {
                let kept = assigned.iter().filter(|(place, owner)| *owner == member && owners.get(*place) == Some(member)).count();
                let had = owners.values().filter(|owner| *owner == member).count();
                prop_assert!(kept >= had.min(least), "{} of {}", kept, had);
            }
        }
    }
}
