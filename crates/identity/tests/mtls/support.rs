//! Two ends of a connection.

use std::sync::Arc;

use outrigger_identity::testing::TestCa;
use outrigger_identity::{
    Acceptor, Anchors, CertificateSource, Conn, DialError, Dialer, HandshakeError, Issued, Options,
    PeerIdentity, RequestError, Security, Source, csr,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What runs beside a test.
pub(crate) struct World {
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    pub(crate) async fn security(&self, ca: &Arc<TestCa>, id: &str) -> Security {
        outrigger_identity::testing::security(ca, id, &self.stop, &self.tasks).await
    }

    /// A workload with a certificate of the test's making.
    pub(crate) async fn odd(&self, ca: &Arc<TestCa>, leaf: outrigger_identity::testing::Leaf) -> Security {
        let options = Options::new(
            ca.control_plane().clone(),
            Anchors::Pem(ca.root_pem().into_bytes()),
            Source::Own(Arc::new(Odd(Arc::clone(ca), leaf))),
        );
        self.start(options).await
    }

    pub(crate) async fn start(&self, options: Options) -> Security {
        Security::start(options, self.stop.clone(), &self.tasks)
            .await
            .expect("an identity")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The settings of a workload certified by a test authority.
pub(crate) fn options(ca: &Arc<TestCa>, id: &str) -> Options {
    let id = id.parse().expect("a SPIFFE id");
    let anchors = Anchors::Pem(ca.root_pem().into_bytes());
    Options::new(ca.control_plane().clone(), anchors, Source::Own(ca.source(id)))
}

struct Odd(Arc<TestCa>, outrigger_identity::testing::Leaf);

#[tonic::async_trait]
impl CertificateSource for Odd {
    async fn request(&self, csr: &str) -> Result<Issued, RequestError> {
        let csr = csr::parse(csr.as_bytes()).expect("our own request");
        Ok(Issued {
            chain_pem: self.0.sign(&self.1, &csr).into_bytes(),
            ..Issued::default()
        })
    }
}

/// What both sides saw.
pub(crate) struct Outcome {
    /// Whether four bytes came through in each direction.
    pub(crate) talked: bool,
    pub(crate) client: Option<HandshakeError>,
    pub(crate) server: Result<Option<PeerIdentity>, HandshakeError>,
}

/// Connects once and exchanges four bytes.
pub(crate) async fn meet(dialer: &Dialer, acceptor: &Acceptor) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (mut connection, peer) = acceptor.accept(stream).await?;
        let talked = echo(&mut connection).await;
        Ok::<_, HandshakeError>((talked, peer))
    };
    let client = async {
        let mut connection = dialer.connect(&address).await?;
        Ok::<_, DialError>(ask(&mut connection).await)
    };
    let (client, server) = tokio::join!(client, server);
    let (talked, client) = match client {
        Ok(talked) => (talked, None),
        Err(DialError::Handshake { error, .. }) => (false, Some(error)),
        Err(other) => panic!("{other}"),
    };
    let heard = matches!(server, Ok((true, _)));
    Outcome {
        talked: talked && heard,
        client,
        server: server.map(|(_, peer)| peer),
    }
}

async fn echo(connection: &mut Conn<TcpStream>) -> bool {
    let mut bytes = [0; 4];
    connection.read_exact(&mut bytes).await.is_ok()
        && connection.write_all(&bytes).await.is_ok()
        && connection.flush().await.is_ok()
}

pub(crate) async fn ask(connection: &mut Conn<TcpStream>) -> bool {
    let mut bytes = [0; 4];
    connection.write_all(b"ping").await.is_ok()
        && connection.flush().await.is_ok()
        && connection.read_exact(&mut bytes).await.is_ok()
        && bytes == *b"ping"
}
