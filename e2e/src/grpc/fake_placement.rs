//! A placement service that always says the same: these actor types are hosted over there.

use std::convert::Infallible;

use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Either};
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_proto::placement::v1::{Host, PlacementOrder, PlacementTable, PlacementTables};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::app::{Body, response};
use super::frame::frame;

/// Stops when dropped.
#[derive(Debug)]
pub struct FakePlacement {
    port: u16,
    accepting: AbortHandle,
}

impl FakePlacement {
    /// Every sidecar is told that `types` are hosted by the sidecar at `address`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(types: &[String], address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let orders = orders(types, address);
        let accepting = tokio::spawn(accept(listener, orders)).abort_handle();
        Self { port, accepting }
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for FakePlacement {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn orders(types: &[String], address: &str) -> Vec<PlacementOrder> {
    let host = Host {
        name: address.to_owned(),
        id: "remote".to_owned(),
        namespace: "default".to_owned(),
        entities: types.to_vec(),
        ..Host::default()
    };
    let table = PlacementTable {
        load_map: [(address.to_owned(), host)].into(),
        ..PlacementTable::default()
    };
    let tables = PlacementTables {
        entries: types.iter().map(|name| (name.clone(), table.clone())).collect(),
        replication_factor: 100,
        ..PlacementTables::default()
    };
    let order = |operation: &str, tables| PlacementOrder {
        tables,
        operation: operation.to_owned(),
        version: 1,
    };
    vec![
        order("lock", None),
        order("update", Some(tables)),
        order("unlock", None),
    ]
}

async fn accept(listener: TcpListener, orders: Vec<PlacementOrder>) {
    // Dropped, and with it every connection, when the service is stopped.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let orders = orders.clone();
        connections.spawn(async move {
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let answer = respond(request.into_body(), orders.clone());
                async move { Ok::<_, Infallible>(answer) }
            });
            // An error only means that the peer is gone.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn respond(mut reports: Incoming, orders: Vec<PlacementOrder>) -> hyper::Response<Body> {
    let (mut out, channel) = Channel::new(8);
    // Ends with the connection at the latest: then the body of reports has an error.
    tokio::spawn(async move {
        for order in orders {
            if out.send_data(frame(&order.encode_to_vec())).await.is_err() {
                return;
            }
        }
        while let Some(Ok(_)) = reports.frame().await {}
    });
    response(HeaderMap::new(), Either::Left(channel))
}
