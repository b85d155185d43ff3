//! The custom resource definitions on a real API server: upstream's manifests are taken, what a sidecar would refuse is
//! refused at `kubectl apply` with a text that names the field.

use outrigger_e2e::kube::KubeApi;

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");

async fn api_server(dir: &std::path::Path) -> KubeApi {
    let kube = KubeApi::start(dir).await;
    kube.kubectl(&["apply", "-f", CRDS], "")
        .expect("the API server takes the definitions");
    kube.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ],
        "",
    )
    .expect("the definitions are established");
    // Nobody converts here: the tests use the stored version, and the webhook has no service.
    kube
}

/// Manifests as users have them: each kind with every field that the contract names.
const ACCEPTED: &[(&str, &str)] = &[
    (
        "component",
        "{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: statestore}, spec: {type: state.redis, version: v1, \
         ignoreErrors: true, initTimeout: 20s, metadata: [{name: redisHost, value: 'localhost:6379'}, {name: num, value: 5}, \
         {name: b, value: true}, {name: o, value: {a: [1, x]}}, {name: p, secretKeyRef: {name: s, key: k}}, {name: e, envRef: HOME}, \
         {name: primaryEncryptionKey, secretKeyRef: {name: s, key: k}}]}, scopes: [a, b], auth: {secretStore: local}}",
    ),
    (
        "configuration",
        "{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: c}, spec: {tracing: {samplingRate: '1', stdout: true, \
         zipkin: {endpointAddress: 'http://z:9411'}, otel: {endpointAddress: 'o:4317', protocol: grpc, isSecure: false, \
         headers: [{name: a, value: b}], timeout: 5s}}, \
         metric: {enabled: true}, metrics: {enabled: true, recordErrorCodes: true, latencyDistributionBuckets: [1, 2], \
         http: {increasedCardinality: false, pathMatching: [/a], excludeVerbs: true}, \
         rules: [{name: m, labels: [{name: l, regex: {x: y.*}}]}]}, \
         httpPipeline: {handlers: [{name: h, type: middleware.http.uppercase, version: v1, selector: {fields: [{field: f, value: v}]}}]}, \
         appHttpPipeline: {handlers: [{name: h, type: middleware.http.uppercase}]}, \
         mtls: {enabled: true, workloadCertTTL: 24h, allowedClockSkew: 15m, sentryAddress: 'dapr-sentry.dapr-system.svc.cluster.local:443', \
         controlPlaneTrustDomain: cluster.local, tokenValidators: [{name: jwks, options: {minRefreshInterval: 2m, source: 'https://x'}}]}, \
         secrets: {scopes: [{storeName: s, defaultAccess: deny, allowedSecrets: [a], deniedSecrets: [b]}]}, \
         accessControl: {defaultAction: deny, trustDomain: public, policies: [{appId: a, namespace: prod, trustDomain: public, \
         defaultAction: deny, operations: [{name: /x, httpVerb: ['*'], action: allow}]}]}, \
         nameResolution: {component: consul, version: v1, configuration: {selfRegister: true}}, \
         features: [{name: HotReload, enabled: false}], \
         api: {allowed: [{name: state, version: v1.0, protocol: http}], denied: [{name: invoke, version: v1}]}, \
         components: {deny: [state.redis/v1]}, logging: {apiLogging: {enabled: true, obfuscateURLs: true, omitHealthChecks: true}}, \
         wasm: {strictSandbox: true}, workflow: {maxConcurrentWorkflowInvocations: 5, stateRetentionPolicy: {completed: 1h}}}}",
    ),
    (
        "the system configuration of the chart",
        "{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: daprsystem}, spec: {mtls: {enabled: true, \
         workloadCertTTL: 24h, allowedClockSkew: 15m, controlPlaneTrustDomain: cluster.local, sentryAddress: 'x:443'}}}",
    ),
    (
        "HTTP endpoint",
        "{apiVersion: dapr.io/v1alpha1, kind: HTTPEndpoint, metadata: {name: h}, spec: {baseUrl: 'https://api.test', \
         headers: [{name: Accept-Language, value: en}], clientTLS: {rootCA: {secretKeyRef: {name: s, key: k}}, \
         certificate: {value: x}, privateKey: {value: y}, renegotiation: OnceAsClient}}, auth: {secretStore: k}, scopes: [a]}",
    ),
    (
        "subscription",
        "{apiVersion: dapr.io/v2alpha1, kind: Subscription, metadata: {name: s}, spec: {pubsubname: p, topic: t, metadata: {rawPayload: 'true'}, \
         routes: {rules: [{match: 'event.type == \"x\"', path: /x}], default: /d}, deadLetterTopic: dlq, \
         bulkSubscribe: {enabled: true, maxMessagesCount: 100, maxAwaitDurationMs: 40}}, scopes: [a]}",
    ),
    (
        "resiliency",
        "{apiVersion: dapr.io/v1alpha1, kind: Resiliency, metadata: {name: r}, spec: {policies: {timeouts: {t: 5s, ms: '100'}, \
         retries: {r: {policy: constant, duration: 5s, maxRetries: 10, matching: {httpStatusCodes: '429,500-599', gRPCStatusCodes: '1,2-4'}}, \
         e: {policy: exponential, maxInterval: 15s, maxRetries: -1}}, \
         circuitBreakers: {c: {maxRequests: 1, interval: 8s, timeout: 45s, trip: consecutiveFailures > 8}}}, \
         targets: {apps: {a: {timeout: t, retry: r, circuitBreaker: c, circuitBreakerCacheSize: 5}}, \
         actors: {x: {timeout: t, retry: r, circuitBreaker: c, circuitBreakerScope: both, circuitBreakerCacheSize: 5000}}, \
         components: {s: {outbound: {timeout: t, retry: r, circuitBreaker: c}, inbound: {retry: r}}}}}, scopes: [a]}",
    ),
    (
        "MCP server",
        "{apiVersion: dapr.io/v1alpha1, kind: MCPServer, metadata: {name: m}, spec: {endpoint: {streamableHTTP: {url: 'http://x', \
         headers: [{name: a, value: b}], auth: {oauth2: {issuer: i, scopes: [s]}, spiffe: {jwt: {header: h, audience: a}}}}}, \
         middleware: {beforeCallTool: [{workflow: {workflowName: w, appID: a}, mutate: true}]}, catalog: {displayName: d, links: {a: b}}}, scopes: [a]}",
    ),
    (
        "workflow access policy",
        "{apiVersion: dapr.io/v1alpha1, kind: WorkflowAccessPolicy, metadata: {name: w}, spec: {rules: [{callers: [{appID: a}], \
         workflows: [{name: 'order-*', operations: [schedule], requires: [{eventType: workflow.started, name: x}]}], \
         activities: [{name: pay}]}]}, scopes: [a]}",
    ),
];

/// Broken manifests and words that the refusal must have.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: x}, spec: {type: stat.redis, version: v1, metadata: []}}",
        &["spec.type", "<category>.<implementation>"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: x}, spec: {version: v1, metadata: []}}",
        &["spec.type", "Required"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: x}, spec: {type: state.redis, version: v1, \
         metadata: [{name: PrimaryEncryptionKey, value: abc}]}}",
        &["spec.metadata", "secretKeyRef"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: HTTPEndpoint, metadata: {name: x}, spec: {baseUrl: api.test}}",
        &["spec.baseUrl", "http://"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: HTTPEndpoint, metadata: {name: x}, spec: {baseUrl: 'http://a', clientTLS: {certificate: {value: x}}}}",
        &["spec.clientTLS", "privateKey"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: HTTPEndpoint, metadata: {name: x}, spec: {baseUrl: 'http://a', clientTLS: {renegotiation: Sometimes}}}",
        &["spec.clientTLS.renegotiation", "OnceAsClient"],
    ),
    (
        "{apiVersion: dapr.io/v2alpha1, kind: Subscription, metadata: {name: x}, spec: {pubsubname: '', topic: t, routes: {}}}",
        &["spec.pubsubname"],
    ),
    (
        "{apiVersion: dapr.io/v2alpha1, kind: Subscription, metadata: {name: x}, spec: {pubsubname: p, routes: {}}}",
        &["spec.topic", "Required"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Resiliency, metadata: {name: x}, spec: {policies: {retries: {r: {duration: soon}}}, targets: {}}}",
        &["spec.policies.retries.r.duration"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Resiliency, metadata: {name: x}, spec: {policies: {retries: {r: {matching: {httpStatusCodes: '700'}}}}, targets: {}}}",
        &["httpStatusCodes"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Resiliency, metadata: {name: x}, spec: {policies: {}, targets: {actors: {a: {circuitBreaker: c}}}}}",
        &["spec.targets.actors[a]", "circuitBreakerScope"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: x}, spec: {accessControl: {policies: [{appId: a, namespace: prod}]}}}",
        &["spec.accessControl.policies[0]", "trustDomain"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: x}, spec: {secrets: {scopes: [{storeName: a}, {storeName: a}]}}}",
        &["spec.secrets.scopes[1]", "Duplicate"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: Configuration, metadata: {name: x}, spec: {tracing: {samplingRate: '1', otel: {endpointAddress: a, protocol: udp, isSecure: true}}}}",
        &["spec.tracing.otel.protocol", "grpc or http"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: MCPServer, metadata: {name: x}, spec: {endpoint: {sse: {url: a}, stdio: {command: b}}}}",
        &[
            "spec.endpoint",
            "exactly one of streamableHTTP, sse, or stdio must be set",
        ],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: WorkflowAccessPolicy, metadata: {name: x}, spec: {rules: [{callers: [{appID: a}]}]}}",
        &["spec.rules[0]", "at least one of workflows or activities"],
    ),
    (
        "{apiVersion: dapr.io/v1alpha1, kind: WorkflowAccessPolicy, metadata: {name: x}, spec: {rules: [{callers: [{appID: a}], \
         workflows: [{name: w, operations: [schedule, get], requires: [{eventType: event.raised, name: e}]}]}]}}",
        &["requires goes with operations"],
    ),
];

#[tokio::test]
async fn manifests_are_taken_whole_and_broken_ones_refused_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let kube = api_server(dir.path()).await;
    for (name, manifest) in ACCEPTED {
        // Strict: a field that the schema lacks is an error, so nothing of a manifest is pruned.
        let outcome = kube.kubectl(&["create", "--validate=strict", "-f", "-"], manifest);
        assert!(outcome.is_ok(), "{name}: {}", outcome.unwrap_err());
    }
    for (manifest, words) in REFUSED {
        let refusal = kube
            .kubectl(&["create", "-f", "-"], manifest)
            .expect_err(&format!("this must be refused: {manifest}"));
        for word in *words {
            assert!(
                refusal.contains(word),
                "{manifest}\nwas refused without {word:?}: {refusal}"
            );
        }
    }
    let shown = kube.kubectl(&["get", "dcomp"], "").unwrap();
    assert!(shown.contains("TYPE") && shown.contains("state.redis"), "{shown}");
}
