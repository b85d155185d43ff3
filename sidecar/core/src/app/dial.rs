//! Waiting until the app listens (contract `flags-env-annotations`, section 6).

use std::time::Duration;

use super::tls::Connector;
use crate::config::AppConfig;

const TIMEOUT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(100);

/// Dials every 100 ms until the app answers. An app of a TLS protocol must complete the handshake: its port may be
/// open before it can.
pub(super) async fn until_listening(config: &AppConfig, port: u16) {
    let connector = Connector::probe(config.protocol.is_tls());
    loop {
        let dial = connector.dial(&config.address, port);
        if matches!(tokio::time::timeout(TIMEOUT, dial).await, Ok(Ok(()))) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{DisabledInitEndpoints, Protocol};

    async fn is_found(protocol: Protocol, address: std::net::SocketAddr) -> bool {
        let config = AppConfig {
            port: Some(address.port()),
            address: address.ip().to_string(),
            protocol,
            max_concurrency: None,
            health_check: None,
            disabled_init: DisabledInitEndpoints::default(),
            binding_options_timeout: TIMEOUT,
            token: None,
        };
        let limit = Duration::from_secs(2);
        tokio::time::timeout(limit, until_listening(&config, address.port()))
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn an_open_port_is_enough_for_a_plain_app_and_not_for_one_that_speaks_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Open, but no TLS: whoever sends a hello is told nonsense.
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"no TLS here\r\n").await;
            }
        });
        assert!(is_found(Protocol::Http, address).await);
        assert!(is_found(Protocol::Grpc, address).await);
        assert!(!is_found(Protocol::Https, address).await);
        assert!(!is_found(Protocol::Grpcs, address).await);
        server.abort();
    }
}
