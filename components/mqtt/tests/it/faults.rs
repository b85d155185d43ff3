//! The broker dies, hangs and comes back under load.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use outrigger_components_api::pubsub::PubSub as _;
use outrigger_components_api::testing::faults::no_acknowledged_event_is_lost;
use outrigger_components_api::testing::pubsub::{Recorder, text, topic};
use outrigger_components_api::testing::{init_context, soon};
use outrigger_components_mqtt::Mqtt;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_restarted_paused_and_killed_loses_no_acknowledged_event() {
    let mut server = Server::start().await;
    let broker = Arc::new(Mqtt::connect(&server.context(&[])).await.unwrap());
    let outcome = no_acknowledged_event_is_lost(broker.clone(), "restarted", async {
        server.stop();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.start_again().await;
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
    let outcome = no_acknowledged_event_is_lost(broker.clone(), "paused", async {
        server.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_secs(3)).await;
        server.signal(Signal::CONT);
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
    let outcome = no_acknowledged_event_is_lost(broker, "killed", async {
        server.kill();
        server.start_again().await;
    })
    .await;
    assert!(outcome.acknowledged > 100, "{outcome:?}");
}

/// MQTT 3 has no words for how many messages a broker holds open: what exceeds Mosquitto's 20 it confirms and throws away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_messages_that_are_confirmed_twice_arrives() {
    let server = Server::start().await;
    let broker = Mqtt::connect(&server.context(&[("qos", "2")])).await.unwrap();
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("burst"), seen.clone()).await.unwrap();
    let sent: Vec<String> = (0..60).map(|n| format!("{n:02}")).collect();
    // All of them are in the connection before the broker reads one.
    server.signal(Signal::STOP);
    let publish = join_all(sent.iter().map(|data| broker.publish(text("burst", data))));
    let go_on = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.signal(Signal::CONT);
    };
    let (published, ()) = tokio::join!(publish, go_on);
    assert!(published.iter().all(Result::is_ok), "{published:?}");
    seen.wait_until("what was acknowledged", |came| {
        sent.iter().all(|data| came.contains(data))
    })
    .await;
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_given_up_by_their_callers_leave_no_places_taken_at_the_broker() {
    let mut server = Server::start().await;
    let broker = Mqtt::connect(&server.context(&[("qos", "2")])).await.unwrap();
    let seen = Recorder::new();
    let subscription = broker.subscribe(topic("places"), seen.clone()).await.unwrap();
    for round in 0..4 {
        // The broker has these and cannot say so; then its connection goes.
        server.signal(Signal::STOP);
        let names: Vec<String> = (0..10).map(|n| format!("{round}-{n}")).collect();
        let given_up = join_all(names.iter().map(|data| broker.publish(text("places", data))));
        assert!(
            tokio::time::timeout(Duration::from_millis(100), given_up)
                .await
                .is_err()
        );
        server.signal(Signal::CONT);
        server.stop();
        server.start_again().await;
    }
    let sent: Vec<String> = (0..40).map(|n| format!("after {n}")).collect();
    for data in &sent {
        broker.publish(text("places", data)).await.unwrap();
    }
    seen.wait_until("what was acknowledged", |came| {
        sent.iter().all(|data| came.contains(data))
    })
    .await;
    subscription.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_takes_nothing_more_holds_up_no_end() {
    let server = Server::start().await;
    let context = server.context(&[]);
    let broker = Mqtt::connect(&context).await.unwrap();
    server.signal(Signal::STOP);
    // More than the system buffers between them.
    let large = "x".repeat(8 << 20);
    let published = join_all((0..4).map(|_| broker.publish(text("large", &large))));
    assert!(
        tokio::time::timeout(Duration::from_millis(500), published)
            .await
            .is_err()
    );
    broker.close().await;
    context.tasks.close();
    soon("the end of the session", context.tasks.wait()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_were_killed_leave_no_places_taken_at_the_broker() {
    let server = Server::start().await;
    let settings = [("qos", "2"), ("consumerID", "killed")];
    for _ in 0..3 {
        // All of its places are taken by messages that it has not released when it goes without a word.
        let mut killed = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        killed
            .write_all(b"\x10\x12\x00\x04MQTT\x04\x00\x00\x1e\x00\x06killed")
            .await
            .unwrap();
        for id in 1..=10 {
            killed
                .write_all(&[0x34, 9, 0, 5, b'o', b't', b'h', b'e', b'r', 0, id])
                .await
                .unwrap();
        }
        // Welcome and ten confirmations.
        let mut answers = [0; 4 + 10 * 4];
        killed.read_exact(&mut answers).await.unwrap();
        drop(killed);
        let broker = Mqtt::connect(&server.context(&settings)).await.unwrap();
        let seen = Recorder::new();
        let subscription = broker.subscribe(topic("killed"), seen.clone()).await.unwrap();
        let sent: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let published = join_all(sent.iter().map(|data| broker.publish(text("killed", data)))).await;
        assert!(published.iter().all(Result::is_ok), "{published:?}");
        seen.wait_until("what was acknowledged", |came| {
            sent.iter().all(|data| came.contains(data))
        })
        .await;
        subscription.close().await;
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_holds_back_messages_that_need_no_acknowledgement() {
    let server = Server::start().await;
    let settings = [("qos", "0")];
    let broker = Mqtt::connect(&server.context(&settings)).await.unwrap();
    let seen = Recorder::blocked();
    let subscription = broker.subscribe(topic("slow"), seen.clone()).await.unwrap();
    for n in 0..600 {
        broker.publish(text("slow", &n.to_string())).await.unwrap();
    }
    seen.wait(200).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(seen.running() <= 256, "{} at once", seen.running());
    seen.release();
    seen.wait(600).await;
    subscription.close().await;
}

/// Mosquitto refuses no subscription, so this broker is one of a few lines.
#[tokio::test]
async fn a_subscription_that_is_refused_says_so_also_when_the_connection_is_renewed_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let broker = async {
        for first in [true, false] {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(packet(&mut stream).await[0], 0x10);
            stream.write_all(b"\x20\x02\x01\x00").await.unwrap();
            if first {
                // A message of a topic that nobody has subscribed to; the client comes back for it.
                stream.write_all(b"\x32\x06\x00\x01t\x00\x01x").await.unwrap();
                while packet(&mut stream).await[0] != 0xe0 {}
            } else {
                let subscribe = packet(&mut stream).await;
                assert_eq!(subscribe[0], 0x82);
                stream
                    .write_all(&[0x90, 3, subscribe[1], subscribe[2], 0x80])
                    .await
                    .unwrap();
                packet(&mut stream).await;
            }
        }
    };
    let client = async {
        let context = init_context("mqtt", [("url", &url), ("consumerID", "app1")]);
        let broker = Mqtt::connect(&context).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let refused = broker.subscribe(topic("t"), Recorder::new()).await;
        assert_eq!(
            refused.err().map(|error| error.0).as_deref(),
            Some("mqtt error from subscribe: the broker refused the subscription")
        );
        broker.close().await;
    };
    soon("both of them", async { tokio::join!(broker, client) }).await;
}

/// The head and the body of the next packet, or zeros when there are no more.
async fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    if stream.read_exact(&mut head).await.is_err() {
        return vec![0xe0, 0, 0];
    }
    let mut packet = vec![0; usize::from(head[1]) + 1];
    stream.read_exact(&mut packet[1..]).await.unwrap();
    packet[0] = head[0];
    packet
}

/// Mosquitto replaces an open message by another one with its identifier; other brokers keep the old one, as the standard says.
#[tokio::test]
async fn what_an_earlier_process_left_open_is_released() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let broker = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        packet(&mut stream).await;
        stream.write_all(b"\x20\x02\x01\x00").await.unwrap();
        for id in 1..=10 {
            assert_eq!(packet(&mut stream).await, [0x62, 0, id]);
        }
        let publish = packet(&mut stream).await;
        // The answers about the old ones come first, and are no answer to this.
        for id in 1..=10 {
            stream.write_all(&[0x70, 2, 0, id]).await.unwrap();
        }
        assert_eq!((publish[0], publish[5]), (0x34, 1));
        stream.write_all(&[0x50, 2, 0, 1]).await.unwrap();
        assert_eq!(packet(&mut stream).await, [0x62, 0, 1]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(&[0x70, 2, 0, 1]).await.unwrap();
        packet(&mut stream).await;
    };
    let client = async {
        let context = init_context("mqtt", [("url", &url), ("consumerID", "app1"), ("qos", "2")]);
        let broker = Mqtt::connect(&context).await.unwrap();
        broker.publish(text("t", "1")).await.unwrap();
        broker.close().await;
    };
    soon("both of them", async { tokio::join!(broker, client) }).await;
}
