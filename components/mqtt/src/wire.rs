//! A connection to the broker: bytes in and out, and the first handshake.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::codec::{self, Incoming, Outgoing};
use crate::settings::Settings;

pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(30);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that has been welcomed.
pub(crate) struct Wire {
    reader: tokio::io::ReadHalf<Box<dyn Stream>>,
    writer: tokio::io::WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    /// The broker kept the session: it sends again what was not acknowledged.
    pub(crate) session_present: bool,
}

impl Wire {
    /// Connects and says hello.
    ///
    /// # Errors
    /// Why the broker cannot be reached, or what it does not like.
    pub(crate) async fn connect(settings: &Settings, tls: Option<&TlsConnector>) -> Result<Self, String> {
        let address = &settings.address;
        let text = |error: io::Error| error.to_string();
        let stream = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from(address.host.clone()).map_err(|error| error.to_string())?;
                Box::new(tls.connect(name, stream).await.map_err(text)?)
            }
        };
        let (reader, writer) = tokio::io::split(stream);
        let mut wire = Self {
            reader,
            writer,
            input: BytesMut::with_capacity(4096),
            output: BytesMut::new(),
            session_present: false,
        };
        wire.put(&Outgoing::Connect {
            client_id: &settings.client_id,
            clean_session: settings.clean_session,
            keep_alive: KEEP_ALIVE.as_secs() as u16,
            user: address.user.as_deref(),
            password: address.password.as_deref(),
        });
        wire.flush().await.map_err(text)?;
        match wire.next().await? {
            Incoming::ConnAck {
                code: 0,
                session_present,
            } => {
                wire.session_present = session_present;
                Ok(wire)
            }
            Incoming::ConnAck { code, .. } => Err(refusal(code).to_owned()),
            other => Err(format!("expected a welcome, got {other:?}")),
        }
    }

    /// Queues a packet for [`Wire::flush`].
    pub(crate) fn put(&mut self, packet: &Outgoing<'_>) {
        packet.write(&mut self.output);
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        self.writer.write_all_buf(&mut self.output).await?;
        self.writer.flush().await
    }

    /// The next packet. May be dropped and called again.
    ///
    /// # Errors
    /// If the connection is gone or the bytes are no MQTT.
    pub(crate) async fn next(&mut self) -> Result<Incoming, String> {
        loop {
            if let Some(packet) = codec::read(&mut self.input)? {
                return Ok(packet);
            }
            match self.reader.read_buf(&mut self.input).await {
                Ok(0) => return Err("the broker closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// In the words of Go's client.
fn refusal(code: u8) -> &'static str {
    match code {
        1 => "unacceptable protocol version",
        2 => "identifier rejected",
        3 => "server unavailable",
        4 => "bad user name or password",
        5 => "not authorized",
        _ => "unknown reason",
    }
}
