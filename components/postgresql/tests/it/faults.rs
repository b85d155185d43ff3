//! The server dies, hangs and comes back under load.

use std::sync::Arc;
use std::time::Duration;

use outrigger_components_api::state::StateStore;
use outrigger_components_api::testing::faults::no_acknowledged_write_is_lost;
use outrigger_components_api::testing::state::{read, write};
use outrigger_components_postgresql::PostgresState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_and_restarted_server_loses_no_acknowledged_write() {
    let mut server = Server::start().await;
    let store = Arc::new(PostgresState::connect_v2(&server.context(&[])).await.unwrap());
    let outcome = no_acknowledged_write_is_lost(store, "killed||", async {
        server.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.start_again().await;
    })
    .await;
    assert!(outcome.failed > 0, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_loses_no_acknowledged_write_and_calls_end_in_time() {
    let server = Server::start().await;
    let context = server.context(&[("timeout", "1s")]);
    let store = Arc::new(PostgresState::connect_v1(&context).await.unwrap());
    let outcome = no_acknowledged_write_is_lost(store, "paused||", async {
        server.pause();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        server.resume();
    })
    .await;
    assert!(
        outcome.failed > 0,
        "calls did not end while the server was paused: {outcome:?}"
    );
}

#[tokio::test]
async fn an_idle_connection_that_was_cut_off_is_not_used_again() {
    let server = Server::start().await;
    let store = PostgresState::connect_v2(&server.context(&[])).await.unwrap();
    store.set(write("k", "1")).await.unwrap();
    for _ in 0..5 {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
        server.client().await.execute(cut, &[]).await.unwrap();
        // At once: nobody has noticed yet.
        assert_eq!(read(&store, "k").await.data.as_deref(), Some(&b"1"[..]));
        store.set(write("k", "1")).await.unwrap();
    }
}

#[tokio::test]
async fn a_cancelled_call_leaves_no_answer_to_the_next() {
    let server = Server::start().await;
    let store = PostgresState::connect_v2(&server.context(&[("maxConns", "2")]))
        .await
        .unwrap();
    for n in 0..20 {
        store.set(write(&format!("k{n}"), &n.to_string())).await.unwrap();
    }
    for n in 0..20_u64 {
        let key = format!("k{n}");
        let _ = tokio::time::timeout(Duration::from_micros(n * 40), read(&store, &key)).await;
        let other = format!("k{}", (n + 7) % 20);
        let expected = ((n + 7) % 20).to_string();
        assert_eq!(
            read(&store, &other).await.data.as_deref(),
            Some(expected.as_bytes())
        );
    }
}

/// Stands before a server: refuses so many connections as one that is starting up does, and forwards the others.
async fn starting_up(server: u16, refusals: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for n in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            if n >= refusals {
                let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
                continue;
            }
            let length = client.read_u32().await.unwrap() - 4;
            let mut start = vec![0; length as usize];
            client.read_exact(&mut start).await.unwrap();
            let fields = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0";
            client.write_u8(b'E').await.unwrap();
            client.write_u32(fields.len() as u32 + 4).await.unwrap();
            client.write_all(fields).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_is_starting_up_is_waited_for_as_long_as_a_call_may_take() {
    let server = Server::start().await;
    let port = starting_up(server.port(), 3).await.to_string();
    let context = server.context(&[("port", &port)]);
    let store = PostgresState::connect_v2(&context).await.unwrap();
    store.set(write("k", "1")).await.unwrap();
    assert_eq!(read(&store, "k").await.data.as_deref(), Some(&b"1"[..]));

    let port = starting_up(server.port(), usize::MAX).await.to_string();
    let context = server.context(&[("port", &port), ("timeout", "1s")]);
    let error = PostgresState::connect_v2(&context).await.unwrap_err();
    assert!(error.0.contains("57P03"), "{error:?}");
}
