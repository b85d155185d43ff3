//! Sentry's wire in front of a test authority.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use outrigger_proto::sentry::v1::ca_server::{Ca, CaServer};
use outrigger_proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::TestCa;
use crate::serve::{self, ServeOptions};
use crate::{Service, SpiffeId, TrustDomain};

/// The requests that came.
pub type Seen = Arc<Mutex<Vec<SignCertificateRequest>>>;

/// A server of `SignCertificate` that believes every caller, as sentry does when self-hosted. Ends when dropped.
pub struct FakeSentry {
    address: String,
    ca: Arc<TestCa>,
    seen: Seen,
    failures: Arc<Mutex<Vec<Status>>>,
    _stop: DropGuard,
}

impl FakeSentry {
    /// Listens on a free port of this machine, as the sentry of the authority's control plane.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn start(ca: Arc<TestCa>) -> Self {
        let id = ca.control_plane().id_of(Service::Sentry);
        Self::start_as(ca, &id.to_string()).await
    }

    /// As [`Self::start`], with another identity.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn start_as(ca: Arc<TestCa>, id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let security = super::security(&ca, id, &stop, &tasks).await;
        let acceptor = security
            .acceptor_without_client_auth()
            .expect("it has an identity");
        let (seen, failures) = (Seen::default(), Arc::<Mutex<Vec<Status>>>::default());
        let service = CaServer::new(Authority {
            ca: Arc::clone(&ca),
            seen: Arc::clone(&seen),
            failures: Arc::clone(&failures),
        });
        tokio::spawn(serve::grpc(
            listener,
            acceptor,
            service,
            ServeOptions::default(),
            stop.clone(),
        ));
        Self {
            address,
            ca,
            seen,
            failures,
            _stop: stop.drop_guard(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its authority.
    pub const fn ca(&self) -> &Arc<TestCa> {
        &self.ca
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<SignCertificateRequest> {
        self.seen.lock().expect("no test panics in here").clone()
    }

    /// Answers the next request with this; the ones before it first.
    pub fn fail_next(&self, status: Status) {
        self.failures.lock().expect("no test panics in here").push(status);
    }
}

struct Authority {
    ca: Arc<TestCa>,
    seen: Seen,
    failures: Arc<Mutex<Vec<Status>>>,
}

#[tonic::async_trait]
impl Ca for Authority {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let request = request.into_inner();
        self.seen
            .lock()
            .expect("no test panics in here")
            .push(request.clone());
        let mut failures = self.failures.lock().expect("no test panics in here");
        if !failures.is_empty() {
            return Err(failures.remove(0));
        }
        drop(failures);
        let domain = match request.trust_domain.as_str() {
            "" => TrustDomain::public(),
            name => TrustDomain::new(name).map_err(|error| Status::permission_denied(error.to_string()))?,
        };
        let id = SpiffeId::workload_id(&domain, &request.namespace, &request.id)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        let now = SystemTime::now();
        let issued = self
            .ca
            .issue(&id.to_string(), &request.certificate_signing_request, now)
            .map_err(|error| Status::permission_denied(error.text))?;
        let roots = issued.roots.map(|roots| roots.to_pem()).unwrap_or_default();
        Ok(Response::new(SignCertificateResponse {
            workload_certificate: issued.chain_pem.into(),
            trust_chain_certificates: vec![roots.into_bytes().into()],
            valid_until: Some(self.ca.leaf("", now).not_after.into()),
            ..SignCertificateResponse::default()
        }))
    }
}
