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
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that has been welcomed. Both directions can be waited for at the same time.
pub(crate) struct Wire {
    pub(crate) input: Input,
    pub(crate) output: Output,
    /// The broker kept the session: it sends again what was not acknowledged.
    pub(crate) session_present: bool,
}

/// What comes.
pub(crate) struct Input {
    reader: tokio::io::ReadHalf<Box<dyn Stream>>,
    bytes: BytesMut,
}

/// What goes.
pub(crate) struct Output {
    writer: tokio::io::WriteHalf<Box<dyn Stream>>,
    bytes: BytesMut,
    /// Written, and perhaps kept back by a layer below.
    unflushed: bool,
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
            input: Input {
                reader,
                bytes: BytesMut::with_capacity(4096),
            },
            output: Output {
                writer,
                bytes: BytesMut::new(),
                unflushed: false,
            },
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
        match wire.input.next().await? {
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

    /// Queues a packet.
    pub(crate) fn put(&mut self, packet: &Outgoing<'_>) {
        packet.write(&mut self.output.bytes);
    }

    /// Sends all that is queued.
    ///
    /// # Errors
    /// If the connection is gone.
    async fn flush(&mut self) -> io::Result<()> {
        while self.output.pending() > 0 {
            self.output.write().await?;
        }
        Ok(())
    }

    /// Takes leave, if the broker still reads.
    pub(crate) async fn leave(mut self) {
        self.put(&Outgoing::Disconnect);
        // Without it the broker learns it by the end of the connection.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.flush()).await;
    }
}

impl Output {
    /// Bytes that wait for [`Output::write`], at least one if it has anything to do.
    pub(crate) fn pending(&self) -> usize {
        self.bytes.len().max(usize::from(self.unflushed))
    }

    /// Sends some of what is queued. May be dropped and called again.
    ///
    /// # Errors
    /// If the connection is gone.
    pub(crate) async fn write(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            self.writer.flush().await?;
            self.unflushed = false;
        } else if self.writer.write_buf(&mut self.bytes).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        } else {
            self.unflushed = true;
        }
        Ok(())
    }
}

impl Input {
    /// The next packet. May be dropped and called again.
    ///
    /// # Errors
    /// If the connection is gone or the bytes are no MQTT.
    pub(crate) async fn next(&mut self) -> Result<Incoming, String> {
        loop {
            if let Some(packet) = codec::read(&mut self.bytes)? {
                return Ok(packet);
            }
            match self.reader.read_buf(&mut self.bytes).await {
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
