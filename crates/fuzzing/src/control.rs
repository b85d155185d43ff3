//! What other sidecars send: calls to be authorised, internal frames, placement messages.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use outrigger_identity::SpiffeId;
use outrigger_placement::authorise::Peer;
use outrigger_placement::hub::Hub;
use outrigger_placement::namespace::{Effect, Ending};
use outrigger_placement::{Settings, Speaks, StreamId};
use outrigger_proto::placement::v1::Host;
use outrigger_resources::AccessControl;
use outrigger_resources::access_control::Caller;
use outrigger_resources::configuration::{AccessControlSpec, AppPolicySpec, OperationSpec};
use outrigger_sidecar_core::invoke::frames::FrameReader;
use outrigger_sidecar_core::invoke::lead::{RequestLead, ResponseLead};
use outrigger_sidecar_core::invoke::{escape, method};
use prost::Message as _;

use crate::texts;

const LIMIT: usize = 1 << 20;

fn rules(action: &str, operations: &[(&str, &str)], is_http: bool) -> AccessControl {
    let operation = |(name, action): &(&str, &str)| OperationSpec {
        name: (*name).to_owned(),
        http_verb: vec!["*".to_owned()],
        action: (*action).to_owned(),
    };
    let spec = AccessControlSpec {
        default_action: action.to_owned(),
        trust_domain: "public".to_owned(),
        policies: Some(vec![AppPolicySpec {
            app_id: "web".to_owned(),
            default_action: action.to_owned(),
            trust_domain: "public".to_owned(),
            namespace: "shop".to_owned(),
            operations: operations.iter().map(operation).collect(),
        }]),
    };
    AccessControl::new(&spec, is_http)
        .expect("the policy is complete")
        .expect("there is one")
}

/// A method as it comes from a URL, somebody's rule, and a caller's id: nobody gets out of, or around, a rule by the way
/// the method is written.
pub(crate) fn access_control(input: &[u8]) {
    let Some([called, rule, id]) = texts(input) else {
        return;
    };
    let _ = Caller::from_spiffe_id(id);
    if let Ok(id) = SpiffeId::parse(id) {
        let _ = Caller::from_spiffe_id(&id.to_string());
    }
    // As from a URL, once decoded, and as a gRPC method, which is not.
    let decoded = escape::path(called).ok();
    for called in [Some(called), decoded.as_deref()].into_iter().flatten() {
        let Ok(clean) = method::normalize(called) else {
            continue;
        };
        let rooted = clean.strip_prefix('/').unwrap_or(&clean);
        let odd = |segment: &str| matches!(segment, "" | "." | "..");
        assert!(
            rooted.is_empty() || !rooted.split('/').any(odd),
            "{called:?} became {clean:?}"
        );
        let again = method::normalize(&clean).expect("what is clean stays allowed");
        assert_eq!(again, clean, "cleaning is done once");
        let seen = seen_by_an_app(&clean);
        for is_http in [true, false] {
            decide(&clean, &seen, rule, is_http);
        }
    }
}

/// The path, without its leading slash, that an app sees which decodes as long as there is something to decode, and
/// then goes up at each `..`. Written by itself, on bytes, so as to know nothing of how rules are asked.
fn seen_by_an_app(called: &str) -> String {
    let mut bytes = called.as_bytes().to_vec();
    while let Some((at, byte)) = bytes.windows(3).enumerate().find_map(|(at, three)| {
        let digits = str::from_utf8(&three[1..]).ok()?;
        let is_escape = three[0] == b'%' && three[1..].iter().all(u8::is_ascii_hexdigit);
        is_escape.then(|| Some((at, u8::from_str_radix(digits, 16).ok()?)))?
    }) {
        bytes.splice(at..at + 3, [byte]);
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut stack = Vec::new();
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(stack.pop()),
            segment => stack.push(segment),
        }
    }
    stack.join("/")
}

fn decide(clean: &str, seen: &str, rule: &str, is_http: bool) {
    let web = Caller::from_spiffe_id("spiffe://public/ns/shop/web");
    let other = Caller::from_spiffe_id("spiffe://public/ns/farm/web");
    let verb = is_http.then_some("GET");
    let allowed =
        |rules: &AccessControl, caller: &Option<Caller>| rules.decide(caller.as_ref(), clean, verb).allowed;
    let lower = if is_http {
        seen.to_lowercase()
    } else {
        seen.to_owned()
    };
    let opened = rules("deny", &[("/open/**", "allow")], is_http);
    if allowed(&opened, &web) {
        assert!(
            lower == "open" || lower.starts_with("open/"),
            "{clean:?} is not below /open"
        );
    }
    assert!(!allowed(&opened, &other), "another namespace has no policy");
    assert!(!allowed(&opened, &None), "nobody has no policy");
    let closed = rules("allow", &[("/closed/**", "deny")], is_http);
    assert!(
        !(lower.starts_with("closed/") && allowed(&closed, &web)),
        "{clean:?} is below /closed"
    );
    // Any rule may be written down.
    let _ = allowed(&rules("deny", &[(rule, "allow")], is_http), &web);
}

/// The body of an internal call: messages in frames, the first of them a head.
pub(crate) fn internal_frames(input: &[u8]) {
    let whole = Bytes::copy_from_slice(input);
    let _ = RequestLead::decode(whole.clone());
    let _ = ResponseLead::decode(whole.clone());
    let mut reader = FrameReader::new(Full::new(whole), LIMIT);
    let mut context = Context::from_waker(Waker::noop());
    let mut seen = 0;
    loop {
        match pin!(reader.next()).poll(&mut context) {
            Poll::Ready(Some(Ok(message))) => {
                seen += message.len() + 5;
                assert!(message.len() <= LIMIT && seen <= input.len());
                let _ = RequestLead::decode(message.clone());
                let _ = ResponseLead::decode(message);
            }
            Poll::Ready(None | Some(Err(_))) => return,
            Poll::Pending => panic!("all of the body is there"),
        }
    }
}

/// What sidecars say to placement: three streams whose messages come in the order of the input, each one behind a byte
/// that says of which stream, how much later, and whether the stream ends, and a byte with its length.
pub(crate) fn placement(mut input: &[u8]) {
    let mut hub = Hub::new("p-0", Settings::default());
    let mut now = Duration::from_secs(1);
    hub.lead(now, 1, Duration::from_secs(1 << 20));
    let mut streams: [Option<StreamId>; 3] = [None; 3];
    let mut effects = Vec::new();
    while let [order, length, rest @ ..] = input {
        let (message, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        input = rest;
        let at = usize::from(order & 3).min(2);
        now += Duration::from_millis(u64::from(order >> 3) * 100);
        let opened = *streams[at].get_or_insert_with(|| {
            let speaks = if at == 0 { Speaks::OURS } else { Speaks::DAPR };
            let opened = hub.open(now, Peer::Unknown, speaks);
            opened.expect("the hub leads and has room").id
        });
        if order & 4 != 0 {
            hub.closed(now, opened, Ending::Broken, &mut effects);
            streams[at] = None;
        } else if let Ok(host) = Host::decode(message) {
            hub.message(now, opened, host, &mut effects);
        }
        hub.tick(now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(_, order) => drop(order.frame()),
                Effect::Close(id, _) => {
                    for stream in &mut streams {
                        *stream = stream.filter(|open| *open != id);
                    }
                }
            }
        }
    }
    for stream in streams.into_iter().flatten() {
        hub.closed(now, stream, Ending::InOrder, &mut effects);
    }
    assert!(hub.counts().iter().all(|counts| counts.runtimes == 0));
}
