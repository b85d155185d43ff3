//! Sidecars of one machine find each other, over the real port 5353.

// Tests fail by panicking, their helpers too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use outrigger_components_api::name_resolution::{InstanceInfo, ResolveRequest, Resolver};
use outrigger_components_mdns::MdnsResolver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn instance(app_id: &str, port: u16) -> InstanceInfo {
    InstanceInfo {
        app_id: app_id.into(),
        namespace: "default".into(),
        address: "127.0.0.1".into(),
        internal_port: port,
        http_port: 1,
        app_port: 0,
        configuration: None,
        env: BTreeMap::new(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    }
}

/// Names that no other run on this network has.
fn name(app: &str) -> String {
    format!("{app}-{}", std::process::id())
}

fn app(id: &str) -> ResolveRequest {
    ResolveRequest {
        app_id: id.into(),
        namespace: "default".into(),
        port: 0,
    }
}

#[tokio::test]
async fn a_sidecar_is_found_at_once_and_not_after_its_goodbye() {
    let (one_id, two_id) = (name("one"), name("two"));
    let one = MdnsResolver::start(instance(&one_id, 5001)).unwrap();
    let two_info = instance(&two_id, 5002);
    let (stop, tasks) = (two_info.shutdown.clone(), two_info.tasks.clone());
    let two = MdnsResolver::start(two_info).unwrap();
    let began = Instant::now();
    assert_eq!(one.resolve(&app(&two_id)).await.unwrap(), ["127.0.0.1:5002"]);
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(two.resolve(&app(&one_id)).await.unwrap(), ["127.0.0.1:5001"]);
    // Found in the cache.
    let began = Instant::now();
    one.resolve(&app(&two_id)).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(50));

    two.close().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let gone = async {
        while one.resolve(&app(&two_id)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test]
async fn nobody_answers_within_a_second() {
    let resolver = MdnsResolver::start(instance(&name("alone"), 5001)).unwrap();
    let unknown = name("unknown");
    let began = Instant::now();
    let request = app(&unknown);
    let (first, second) = tokio::join!(resolver.resolve(&request), resolver.resolve(&request));
    for result in [first, second] {
        assert_eq!(result.unwrap_err().0, format!("couldn't find service: {unknown}"));
    }
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(950)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
}

/// The question as a resolver asks it that knows nothing of groups: from a port of its own.
fn question(app_id: &str) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [app_id, "local"] {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 12, 0, 1]);
    out
}

#[tokio::test]
async fn simple_resolvers_are_answered_one_by_one() {
    let app_id = name("simple");
    let _resolver = MdnsResolver::start(instance(&app_id, 5001)).unwrap();
    let question = question(&app_id);
    // Byte for byte the same at the same moment, from two ports.
    for _ in 0..2 {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let mut buffer = [0; 9000];
        // Machines without a route to the group have the loopback interface.
        if socket.send_to(&question, "224.0.0.251:5353").await.is_err() {
            socket2::SockRef::from(&socket)
                .set_multicast_if_v4(&std::net::Ipv4Addr::LOCALHOST)
                .unwrap();
            socket.send_to(&question, "224.0.0.251:5353").await.unwrap();
        }
        let answer = tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer));
        let (length, _) = answer.await.unwrap().unwrap();
        assert_eq!(buffer[..2], question[..2], "the id is repeated");
        assert_eq!(buffer[2] & 0x80, 0x80, "an answer");
        let found = buffer[..length]
            .windows(app_id.len())
            .any(|part| part == app_id.as_bytes());
        assert!(found);
    }
}

/// Not a test of its own: the process that [`another_process_is_found`] starts.
#[tokio::test]
#[ignore = "started by another test as a child process"]
async fn child_that_announces() {
    let app_id = std::env::var("MDNS_CHILD_APP").unwrap();
    let _resolver = MdnsResolver::start(instance(&app_id, 5009)).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn another_process_is_found() {
    let resolver = MdnsResolver::start(instance(&name("asker"), 5001)).unwrap();
    // A second sidecar of the same app, in this process.
    let child_id = name("child");
    let _replica = MdnsResolver::start(instance(&child_id, 5008)).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_announces"])
        .env("MDNS_CHILD_APP", &child_id)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let both = async {
        let mut seen = BTreeSet::new();
        while seen.len() < 2 {
            seen.extend(resolver.resolve(&app(&child_id)).await.unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seen
    };
    let seen = tokio::time::timeout(Duration::from_secs(20), both).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let seen: Vec<String> = seen.unwrap().into_iter().collect();
    assert_eq!(seen, ["127.0.0.1:5008", "127.0.0.1:5009"]);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let mut info = instance("a", 0);
    let error = MdnsResolver::start(info.clone()).unwrap_err();
    assert_eq!(error.0, "port is missing or invalid");
    info.internal_port = 1;
    info.address = "host.example".into();
    let error = MdnsResolver::start(info.clone()).unwrap_err();
    assert_eq!(error.0, "failed to parse given IP: host.example");
    info.app_id = "x".repeat(64);
    info.address = "127.0.0.1".into();
    let error = MdnsResolver::start(info).unwrap_err();
    assert!(error.0.contains("63 bytes"), "{error}");
}
