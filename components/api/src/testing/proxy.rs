//! A stretch of network between a client and a server, which can fall silent: nothing passes and nobody is told.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Forwards connections to a server until dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    stage: Arc<watch::Sender<Stage>>,
    accepting: AbortHandle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stage {
    /// Connections made before this many silences are dead.
    silences: usize,
    /// Whether new ones are served.
    open: bool,
}

impl Proxy {
    /// Stands before the server at this address.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stage = Arc::new(watch::Sender::new(Stage {
            silences: 0,
            open: true,
        }));
        let (server, stages) = (server.to_owned(), stage.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let stage = *stages.borrow();
                if !stage.open {
                    // Nobody is there.
                    continue;
                }
                if let Ok(server) = TcpStream::connect(&server).await {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    connections.spawn(forward(
                        from_client,
                        to_server,
                        stages.subscribe(),
                        stage.silences,
                    ));
                    connections.spawn(forward(
                        from_server,
                        to_client,
                        stages.subscribe(),
                        stage.silences,
                    ));
                }
            }
        });
        Self {
            address,
            stage,
            accepting: accepting.abort_handle(),
        }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// On the connections that there are nothing is passed on any more, and none is closed. New ones fail.
    pub fn fall_silent(&self) {
        self.stage.send_modify(|stage| {
            stage.silences += 1;
            stage.open = false;
        });
    }

    /// New connections are served again.
    pub fn speak(&self) {
        self.stage.send_modify(|stage| stage.open = true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut stage: watch::Receiver<Stage>,
    silences: usize,
) {
    let mut buffer = vec![0; 64 << 10];
    let forwarding = async {
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    if to.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let is_silent = tokio::select! {
        () = forwarding => false,
        silent = stage.wait_for(|stage| stage.silences > silences) => silent.is_ok(),
    };
    if is_silent {
        // Both ends stay open until the proxy is gone.
        let _ = stage.wait_for(|_| false).await;
    }
}
