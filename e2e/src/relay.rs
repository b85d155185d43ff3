//! A wire between a client and a server that a test can hold up: what the client sent stays in it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Passes connections on to a server on this machine. Dropping it cuts all of them.
pub struct Relay {
    port: u16,
    gate: Arc<Gate>,
    _serving: JoinSet<()>,
}

struct Gate {
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    /// The first piece that contains this closes the gate.
    pattern: Option<Vec<u8>>,
    closed: bool,
}

impl Relay {
    /// A relay to this port, open.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.unwrap_or_else(|e| panic!("no port for a relay: {e}"));
        let port = listener.local_addr().expect("it is bound").port();
        let gate = Arc::new(Gate {
            state: watch::Sender::new(State::default()),
        });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, to, Arc::clone(&gate)));
        Self {
            port,
            gate,
            _serving: serving,
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From the next piece on that contains `pattern`, that one included, nothing reaches the server.
    pub fn hold_from(&self, pattern: &[u8]) {
        self.gate
            .state
            .send_modify(|state| state.pattern = Some(pattern.to_vec()));
    }

    /// Waits until something is held up.
    ///
    /// # Panics
    /// If nothing is within half a minute.
    pub async fn held(&self) {
        let mut state = self.gate.state.subscribe();
        let closed = state.wait_for(|state| state.closed);
        tokio::time::timeout(std::time::Duration::from_secs(30), closed)
            .await
            .expect("something should have been sent")
            .expect("the gate lives as long as the relay");
    }

    /// Everything that was held up goes on.
    pub fn release(&self) {
        self.gate.state.send_modify(|state| *state = State::default());
    }
}

impl Gate {
    async fn pass(&self, piece: &[u8]) {
        self.state.send_if_modified(|state| {
            let found = state
                .pattern
                .as_ref()
                .is_some_and(|pattern| piece.windows(pattern.len()).any(|window| window == pattern));
            if found {
                state.pattern = None;
                state.closed = true;
            }
            found
        });
        // The gate lives as long as the relay.
        let _ = self.state.subscribe().wait_for(|state| !state.closed).await;
    }
}

async fn accept(listener: TcpListener, to: u16, gate: Arc<Gate>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let gate = Arc::clone(&gate);
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                return;
            };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::join!(
                copy(from_client, to_server, Some(&gate)),
                copy(from_server, to_client, None)
            );
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: Option<&Gate>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if let Some(gate) = gate {
            gate.pass(&buffer[..length]).await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
