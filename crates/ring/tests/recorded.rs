//! Every recorded vector of the ring (golden `data/ring.json`), by [`Ring`] and by [`Tables`], and tables under random
//! changes against rings built from nothing.
#![allow(clippy::unwrap_used, reason = "test helpers are outside of #[test] functions")]

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_ring::{Host, Ring, Tables, virtual_nodes};
use proptest::prelude::*;
use serde_json::Value;

fn recorded() -> Vec<Value> {
    serde_json::from_str(include_str!("../testdata/ring.json")).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect()
}

fn mk_host(name: &str, app_id: &str) -> Host {
    Host {
        key: name.into(),
        address: name.into(),
        app_id: app_id.into(),
        port: 0,
    }
}

fn mk_tables(version: u64, entries: &[(&str, Vec<Host>)], previous: &Tables) -> Tables {
    let entries = entries
        .iter()
        .map(|(name, hosts)| (Box::from(*name), hosts.clone()));
    Tables::build(version, 10, entries, previous).unwrap()
}

#[test]
fn every_recorded_vector_matches() {
    let (mut owners, mut nodes, mut refusals) = (0, 0, 0);
    for case in recorded() {
        let (id, input, output) = (case["id"].as_str().unwrap(), &case["input"], &case["output"]);
        let factor = input["replication_factor"].as_i64().unwrap();
        if let Some(hashes) = output.get("hashes") {
            let host = input["host"].as_str().unwrap();
            let ours: Vec<_> = virtual_nodes(host, u32::try_from(factor).unwrap())
                .map(|position| position.to_string())
                .collect();
            assert_eq!(ours, strings(hashes), "{id}");
            nodes += 1;
            continue;
        }
        let hosts = strings(&input["hosts"]);
        let ring = Ring::new(&hosts, factor).unwrap();
        let entry = (Box::from("cat"), hosts.iter().map(|name| mk_host(name, "app")));
        let tables = Tables::build(1, factor, [entry], &Tables::default()).unwrap();
        for (index, actor_id) in strings(&input["actor_ids"]).into_iter().enumerate() {
            if output.get("error").is_some() {
                assert_eq!(ring.owner(actor_id), None, "{id}");
                assert!(tables.owner("cat", actor_id).is_none(), "{id}");
                refusals += 1;
                continue;
            }
            let expected = usize::try_from(output["owners"][index].as_u64().unwrap()).unwrap();
            assert_eq!(ring.owner(actor_id), Some(expected), "{id}: {actor_id:?}");
            let owner = tables.owner("cat", actor_id).unwrap();
            assert_eq!(&*owner.key, hosts[expected], "{id}: {actor_id:?}");
            owners += 1;
        }
    }
    assert!(
        owners > 6000 && nodes == 6 && refusals == 2,
        "{owners} {nodes} {refusals}"
    );
}

#[test]
fn a_host_of_many_types_and_a_set_of_hosts_of_many_types_are_stored_once() {
    let hosts: Vec<_> = (0..100)
        .map(|n| mk_host(&format!("10.0.0.{n}:50002"), "app"))
        .collect();
    let names: Vec<_> = (0..100).map(|n| format!("type-{n}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), hosts.clone())).collect();
    let one = mk_tables(1, &entries[..1], &Tables::default());
    let hundred = mk_tables(1, &entries, &Tables::default());
    assert_eq!(hundred.memory(), one.memory());
    let next = mk_tables(2, &entries, &hundred);
    for (name, table) in next.iter() {
        assert!(Arc::ptr_eq(table, hundred.table(name).unwrap()), "{name}");
    }
    assert!(next.changed_since(&hundred).is_empty());
}

#[test]
fn a_type_changed_if_its_hosts_differ_in_anything_and_only_then() {
    let (a, b) = (mk_host("a", "app"), mk_host("b", "app"));
    let old = mk_tables(
        1,
        &[
            ("same", vec![a.clone(), b.clone()]),
            ("less", vec![a.clone(), b.clone()]),
            ("app", vec![a.clone()]),
            ("gone", vec![a.clone()]),
        ],
        &Tables::default(),
    );
    let new = mk_tables(
        2,
        &[
            ("same", vec![b.clone(), a.clone()]),
            ("less", vec![a.clone()]),
            ("app", vec![mk_host("a", "other")]),
            ("new", vec![b]),
        ],
        &old,
    );
    assert_eq!(new.changed_since(&old), ["app", "gone", "less", "new"]);
    assert_eq!(&*new.owner("app", "x").unwrap().app_id, "other");
    let factor = Tables::build(3, 20, [(Box::from("app"), [a])], &new).unwrap();
    assert_eq!(factor.changed_since(&new), ["app", "less", "new", "same"]);
}

#[test]
fn of_two_hosts_with_one_key_the_last_counts() {
    let tables = mk_tables(
        1,
        &[("cat", vec![mk_host("a", "one"), mk_host("a", "two")])],
        &Tables::default(),
    );
    let table = tables.table("cat").unwrap();
    assert_eq!((table.hosts().len(), &*table.hosts()[0].app_id), (1, "two"));
}

proptest! {
    #[test]
    fn a_table_built_on_another_is_as_if_built_on_nothing(
        steps in proptest::collection::vec(
            // Names of which some are others with digits behind: their virtual nodes collide.
            proptest::collection::btree_set((0u32..3, 1u32..40).prop_map(|(a, b)| format!("h{a}:{b}")), 0..12),
            1..6,
        ),
        ids in proptest::collection::vec(".{0,12}", 20),
    ) {
        let mut previous = Tables::default();
        for (version, names) in (1u64..).zip(&steps) {
            let hosts = |names: &BTreeSet<String>| names.iter().map(|name| mk_host(name, "app")).collect::<Vec<_>>();
            let next = mk_tables(version, &[("cat", hosts(names)), ("dog", hosts(&steps[0]))], &previous);
            let fresh = mk_tables(version, &[("cat", hosts(names)), ("dog", hosts(&steps[0]))], &Tables::default());
            prop_assert_eq!(next.table("cat"), fresh.table("cat"));
            prop_assert!(next.changed_since(&fresh).is_empty());
            for id in &ids {
                prop_assert_eq!(next.owner("cat", id), fresh.owner("cat", id));
            }
            previous = next;
        }
    }
}
