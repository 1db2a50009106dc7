//! The broker as its client sees it: one channel, deadlines, and pauses that grow.

use std::sync::Arc;
use std::time::Duration;

use rand::CryptoRng;
use sotto_common::error::{Error, ErrorCode, Result};
use sotto_common::ids::Role;
use sotto_common::random::os_rng;
use sotto_common::service::config::ConfigError;
use sotto_common::service::tls::{ExpectedPeer, MAX_MESSAGE, Tls};
use sotto_proto::status::from_status;
use sotto_proto::v1::follow_up_service_client::FollowUpServiceClient;
use sotto_proto::v1::hit_service_client::HitServiceClient;
use sotto_proto::v1::log_service_client::LogServiceClient;
use sotto_proto::v1::membership_service_client::MembershipServiceClient;
use sotto_proto::v1::probe_service_client::ProbeServiceClient;
use sotto_proto::v1::publication_service_client::PublicationServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::config::BrokerConfig;

/// Deadline of a call that is answered at once.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Deadline of the activation of a filter, which is read and measured as a whole.
pub const LONG_CALL_TIMEOUT: Duration = Duration::from_mins(5);
/// How often a call that somebody waits for is tried while the broker is out of reach.
const ATTEMPTS: u32 = 4;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Pauses between attempts: each twice the one before up to a bound, and by chance up to a half
/// shorter, so that nodes do not come back all at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl Backoff {
    /// The next pause.
    pub fn pause(&mut self, rng: &mut impl CryptoRng) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        let part = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        pause.mul_f64(0.5 + part / 2.0)
    }

    /// Begins anew: an attempt got somewhere.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The broker's services. Clones share one connection, made at the first call and again after
/// every end.
#[derive(Clone, Debug)]
pub struct Broker {
    channel: Channel,
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident,)*) => {
        impl Broker {
            $($(#[$doc])*
            pub fn $name(&self) -> $client<Channel> {
                $client::new(self.channel.clone())
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE)
            })*
        }
    };
}

clients! {
    /// Members and epochs.
    membership: MembershipServiceClient,
    /// Filters.
    publications: PublicationServiceClient,
    /// Probes.
    probes: ProbeServiceClient,
    /// Hits.
    hits: HitServiceClient,
    /// Follow-ups.
    follow_ups: FollowUpServiceClient,
    /// The audit log.
    log: LogServiceClient,
}

impl Broker {
    /// A broker that connects when it is first called.
    ///
    /// # Errors
    /// [`ConfigError`] if the address is not `https://host:port`.
    pub fn new(tls: &Arc<Tls>, config: &BrokerConfig) -> Result<Self, ConfigError> {
        let expected = ExpectedPeer {
            role: Role::Broker,
            name: config.name.clone(),
        };
        let channel = tls.channel(&config.endpoint, expected)?;
        Ok(Self { channel })
    }
}

#[cfg(test)]
impl Broker {
    /// A broker that cannot be reached.
    pub(crate) fn nowhere() -> Self {
        Self::at(std::net::SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    /// A broker of a test, which listens here without TLS.
    pub(crate) fn at(address: std::net::SocketAddr) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        Self {
            channel: endpoint.expect("an address").connect_lazy(),
        }
    }
}

/// Whether the same call may succeed later: the broker is out of reach, or says that it is busy.
pub fn is_passing(error: &Error) -> bool {
    error.code == ErrorCode::Unavailable
}

/// The error in an answer of the broker. A connection that ends under a call, which HTTP/2 calls
/// an internal error, comes without details and passes; a fault of the broker itself has them.
pub fn refusal(status: &Status) -> Error {
    if status.code() == Code::Internal && status.details().is_empty() {
        return Error::new(
            ErrorCode::Unavailable,
            format!("the connection to the broker ended: {}", status.message()),
        );
    }
    from_status(status)
}

/// Makes a call with its deadline, and again a few times while the broker is out of reach. All
/// calls to the broker are idempotent.
///
/// # Errors
/// The broker's refusal, or `UNAVAILABLE`.
pub async fn call<M: Clone, A, F>(message: M, mut send: impl FnMut(Request<M>) -> F) -> Result<A>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut backoff = Backoff::default();
    let mut attempt = 1;
    loop {
        match call_once(message.clone(), CALL_TIMEOUT, &mut send).await {
            Err(error) if is_passing(&error) && attempt < ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(backoff.pause(&mut os_rng())).await;
            }
            outcome => return outcome,
        }
    }
}

/// `ask!(client, method, message)`: [`call`] of a method of a client, as a future.
macro_rules! ask {
    ($client:expr, $method:ident, $message:expr) => {{
        let client = $client;
        $crate::broker::call($message, move |request| {
            let mut client = client.clone();
            async move { client.$method(request).await }
        })
    }};
}
pub(crate) use ask;

/// Makes a call once, with its deadline.
///
/// # Errors
/// The broker's refusal, or `UNAVAILABLE`.
pub async fn call_once<M, A, F>(
    message: M,
    timeout: Duration,
    send: impl FnOnce(Request<M>) -> F,
) -> Result<A>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    match send(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(refusal(&status)),
    }
}

#[cfg(test)]
mod tests {
    use sotto_proto::status::to_status;

    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_differ_by_chance() {
        let mut backoff = Backoff::default();
        let mut whole = FIRST_PAUSE;
        for _ in 0..20 {
            let pause = backoff.pause(&mut os_rng());
            assert!(
                pause >= whole / 2 && pause <= whole,
                "{pause:?} of {whole:?}"
            );
            whole = (whole * 2).min(LONGEST_PAUSE);
        }
        backoff.reset();
        assert!(backoff.pause(&mut os_rng()) <= FIRST_PAUSE);
    }

    #[test]
    fn a_connection_that_ends_passes_and_a_fault_of_either_side_does_not() {
        let cut = Status::from_error(Box::new(std::io::Error::other("cut")));
        // So tonic tells a server that goes away in an orderly manner.
        let goaway = Status::internal("h2 protocol error: NO_ERROR");
        for status in [cut, goaway] {
            assert!(is_passing(&refusal(&status)));
        }
        let fault = refusal(&to_status(Error::internal("disk")));
        assert!(fault.code == ErrorCode::Internal && !is_passing(&fault));
        assert!(!is_passing(&refusal(&Status::unimplemented(
            "no such call"
        ))));
        assert!(!is_passing(&Error::internal("own")));
        assert!(!is_passing(&Error::new(ErrorCode::EpochUnknown, "none")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_while_the_broker_is_away_and_not_when_it_refuses() {
        for (code, expected) in [
            (ErrorCode::Unavailable, ATTEMPTS),
            (ErrorCode::EpochUnknown, 1),
        ] {
            let mut calls = 0;
            let outcome: Result<()> = call((), |_| {
                calls += 1;
                async move { Err(to_status(Error::new(code, "no"))) }
            })
            .await;
            assert_eq!(outcome.expect_err("refused").code, code);
            assert_eq!(calls, expected);
        }
    }
}
