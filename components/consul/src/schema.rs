//! The members that a configuration may have. Names are read in any case and sent to Consul in its own spelling; an
//! unknown one is an error, as in Dapr.

use outrigger_components_api::metadata::{Asked, OptionType};
use serde_json::{Map, Value};

use crate::settings::{ADDRESS, PORT_KEY};

/// What stands in a member.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A value that is passed on as it is: a scalar, or free-form.
    Plain,
    /// An object with these members.
    Object(&'static [Member]),
    /// A list of such objects.
    List(&'static [Member]),
    /// Such objects by free names.
    Named(&'static [Member]),
}

/// A name in Consul's spelling and what stands there.
pub(crate) type Member = (&'static str, Kind);

use Kind::{List, Named, Object, Plain};

/// `spec.nameResolution.configuration`.
pub(crate) const CONFIGURATION: &[Member] = &[
    ("Client", Object(CLIENT)),
    ("Checks", List(CHECK)),
    ("Tags", Plain),
    ("Meta", Plain),
    ("QueryOptions", Object(QUERY)),
    ("AdvancedRegistration", Object(REGISTRATION)),
    ("DaprPortMetaKey", Plain),
    ("SelfRegister", Plain),
    ("SelfDeregister", Plain),
    ("UseCache", Plain),
];

const CLIENT: &[Member] = &[
    ("Address", Plain),
    ("Scheme", Plain),
    ("Datacenter", Plain),
    ("HttpAuth", Object(&[("Username", Plain), ("Password", Plain)])),
    ("WaitTime", Plain),
    ("Token", Plain),
    ("TokenFile", Plain),
    ("TLSConfig", Object(TLS)),
];

const TLS: &[Member] = &[
    ("Address", Plain),
    ("CAFile", Plain),
    ("CAPath", Plain),
    ("CertFile", Plain),
    ("KeyFile", Plain),
    ("InsecureSkipVerify", Plain),
];

const QUERY: &[Member] = &[
    ("Namespace", Plain),
    ("Partition", Plain),
    ("Datacenter", Plain),
    ("WaitHash", Plain),
    ("Token", Plain),
    ("Near", Plain),
    ("Filter", Plain),
    ("MaxAge", Plain),
    ("StaleIfError", Plain),
    ("WaitIndex", Plain),
    ("WaitTime", Plain),
    ("NodeMeta", Plain),
    ("AllowStale", Plain),
    ("RequireConsistent", Plain),
    ("UseCache", Plain),
    ("RelayFactor", Plain),
    ("LocalOnly", Plain),
    ("Connect", Plain),
];

const CHECK: &[Member] = &[
    ("Args", Plain),
    ("CheckID", Plain),
    ("Name", Plain),
    ("DockerContainerID", Plain),
    ("Shell", Plain),
    ("Interval", Plain),
    ("Timeout", Plain),
    ("TTL", Plain),
    ("HTTP", Plain),
    ("Method", Plain),
    ("TCP", Plain),
    ("Status", Plain),
    ("Notes", Plain),
    ("GRPC", Plain),
    ("AliasNode", Plain),
    ("AliasService", Plain),
    ("DeregisterCriticalServiceAfter", Plain),
    ("Header", Plain),
    ("TLSSkipVerify", Plain),
    ("GRPCUseTLS", Plain),
];

const REGISTRATION: &[Member] = &[
    ("Kind", Plain),
    ("ID", Plain),
    ("Name", Plain),
    ("Tags", Plain),
    ("Port", Plain),
    ("Address", Plain),
    ("TaggedAddresses", Named(&[("Address", Plain), ("Port", Plain)])),
    ("EnableTagOverride", Plain),
    ("Meta", Plain),
    ("Weights", Object(&[("Passing", Plain), ("Warning", Plain)])),
    ("Check", Object(CHECK)),
    ("Checks", List(CHECK)),
    ("Proxy", Object(PROXY)),
    ("Connect", Object(&[("Native", Plain), ("SidecarService", Plain)])),
];

const PROXY: &[Member] = &[
    ("DestinationServiceName", Plain),
    ("DestinationServiceID", Plain),
    ("LocalServiceAddress", Plain),
    ("LocalServicePort", Plain),
    ("Config", Plain),
    ("Upstreams", List(UPSTREAM)),
    ("MeshGateway", Object(&[("Mode", Plain)])),
    ("Expose", Object(&[("Checks", Plain), ("Paths", List(EXPOSED))])),
];

const UPSTREAM: &[Member] = &[
    ("DestinationType", Plain),
    ("DestinationNamespace", Plain),
    ("DestinationName", Plain),
    ("Datacenter", Plain),
    ("LocalBindAddress", Plain),
    ("LocalBindPort", Plain),
    ("Config", Plain),
    ("MeshGateway", Object(&[("Mode", Plain)])),
];

const EXPOSED: &[Member] = &[
    ("ListenerPort", Plain),
    ("Path", Plain),
    ("LocalPathPort", Plain),
    ("Protocol", Plain),
    ("ParsedFromCheck", Plain),
];

/// The members for the reference page, those of the client and of questions with theirs. Others are handed on to Consul.
pub(crate) fn options() -> Vec<Asked> {
    let mut options = Vec::new();
    for (name, kind) in CONFIGURATION {
        options.push(option(name));
        if let ("Client" | "QueryOptions", Object(members)) = (*name, kind) {
            for (below, kind) in *members {
                options.push(option(&format!("{name}.{below}")));
                if let ("TLSConfig", Object(members)) = (*below, kind) {
                    options.extend(
                        members
                            .iter()
                            .map(|(last, _)| option(&format!("{name}.{below}.{last}"))),
                    );
                }
            }
        }
    }
    options
}

fn option(name: &str) -> Asked {
    let (of_type, default) = match name {
        "DaprPortMetaKey" => (OptionType::Text, PORT_KEY),
        "UseCache" | "QueryOptions.UseCache" => (OptionType::StrictSwitch, "true"),
        "SelfRegister" | "SelfDeregister" | "Client.TLSConfig.InsecureSkipVerify" => {
            (OptionType::StrictSwitch, "false")
        }
        "Client.Address" => (OptionType::Text, ADDRESS),
        "Client.WaitTime" => (OptionType::Duration, "5m"),
        "Tags" => (OptionType::Texts, ""),
        _ => (OptionType::Text, ""),
    };
    Asked::new(&[name], of_type, default)
}

/// The value with its members in Consul's spelling; members that are null are left out.
///
/// # Errors
/// A member is unknown, or of another kind. `path` is where the value stands.
pub(crate) fn canonical(value: Value, members: &[Member], path: &str) -> Result<Value, String> {
    let Value::Object(given) = value else {
        return Err(format!("{path} must be a map"));
    };
    let mut out = Map::new();
    for (name, value) in given {
        let below = format!("{path}.{name}");
        let Some((spelling, kind)) = members
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(&name))
        else {
            return Err(format!("{below}: json: unknown field {name:?}"));
        };
        if value.is_null() {
            continue;
        }
        out.insert((*spelling).to_owned(), of_kind(value, *kind, &below)?);
    }
    Ok(Value::Object(out))
}

fn of_kind(value: Value, kind: Kind, path: &str) -> Result<Value, String> {
    match (kind, value) {
        (Plain, value) => Ok(value),
        (Object(members), value) => canonical(value, members, path),
        (List(members), Value::Array(items)) => {
            let items = items.into_iter().enumerate();
            items
                .map(|(index, item)| canonical(item, members, &format!("{path}[{index}]")))
                .collect()
        }
        (List(_), _) => Err(format!("{path} must be a list")),
        (Named(members), Value::Object(entries)) => {
            let entries = entries.into_iter().map(|(name, entry)| {
                let below = format!("{path}.{name}");
                Ok((name, canonical(entry, members, &below)?))
            });
            Ok(Value::Object(entries.collect::<Result<_, String>>()?))
        }
        (Named(_), _) => Err(format!("{path} must be a map")),
    }
}
