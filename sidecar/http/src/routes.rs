//! All routes of the HTTP API, by API group.

use http::Method;

use crate::router::Route;
use crate::{
    Handler, actors as handlers, bindings, configuration, jobs, lock, management, not_built, publish,
    secrets, state,
};

const GET: &[Method] = &[Method::GET];
const PUT: &[Method] = &[Method::PUT];
const POST: &[Method] = &[Method::POST];
const DELETE: &[Method] = &[Method::DELETE];
const WRITE: &[Method] = &[Method::POST, Method::PUT];

pub(crate) const fn route(
    group: &'static str,
    group_version: &'static str,
    version: &'static str,
    pattern: &'static str,
    methods: &'static [Method],
    handler: Handler,
) -> Route {
    Route {
        group,
        group_version,
        version,
        pattern,
        methods,
        handler,
        always: false,
        public: false,
    }
}

/// Every route that this sidecar knows.
pub(crate) fn all() -> Vec<Route> {
    let mut routes = vec![
        // state
        route("state", "v1", "v1.0", "state/{storeName}/{key}", GET, |api, r| {
            Box::pin(state::get(api, r))
        }),
        route(
            "state",
            "v1",
            "v1.0",
            "state/{storeName}/{key}",
            DELETE,
            |api, r| Box::pin(state::delete(api, r)),
        ),
        route("state", "v1", "v1.0", "state/{storeName}", WRITE, |api, r| {
            Box::pin(state::save(api, r))
        }),
        route(
            "state",
            "v1",
            "v1.0",
            "state/{storeName}/bulk",
            WRITE,
            |api, r| Box::pin(state::get_bulk(api, r)),
        ),
        route(
            "state",
            "v1",
            "v1.0",
            "state/{storeName}/transaction",
            WRITE,
            |api, r| Box::pin(state::transaction(api, r)),
        ),
        route(
            "state",
            "v1alpha1",
            "v1.0-alpha1",
            "state/{storeName}/query",
            WRITE,
            |api, r| Box::pin(state::query(api, r)),
        ),
        // publish
        route(
            "publish",
            "v1",
            "v1.0",
            "publish/bulk/{pubsubname}/{topic...}",
            WRITE,
            |api, r| Box::pin(publish::bulk(api, r)),
        ),
        route(
            "publish",
            "v1alpha1",
            "v1.0-alpha1",
            "publish/bulk/{pubsubname}/{topic...}",
            WRITE,
            |api, r| Box::pin(publish::bulk(api, r)),
        ),
        route(
            "publish",
            "v1",
            "v1.0",
            "publish/{pubsubname}/{topic...}",
            WRITE,
            |api, r| Box::pin(publish::single(api, r)),
        ),
        // secrets
        route(
            "secrets",
            "v1",
            "v1.0",
            "secrets/{secretStoreName}/bulk",
            GET,
            |api, r| Box::pin(secrets::get_bulk(api, r)),
        ),
        route(
            "secrets",
            "v1",
            "v1.0",
            "secrets/{secretStoreName}/{key}",
            GET,
            |api, r| Box::pin(secrets::get(api, r)),
        ),
        // bindings
        route("bindings", "v1", "v1.0", "bindings/{name}", WRITE, |api, r| {
            Box::pin(bindings::invoke(api, r))
        }),
        // lock
        route(
            "lock",
            "v1alpha1",
            "v1.0-alpha1",
            "lock/{storeName}",
            POST,
            |api, r| Box::pin(lock::try_lock(api, r)),
        ),
        route(
            "unlock",
            "v1alpha1",
            "v1.0-alpha1",
            "unlock/{storeName}",
            POST,
            |api, r| Box::pin(lock::unlock(api, r)),
        ),
        // management
        route("shutdown", "v1", "v1.0", "shutdown", POST, |api, r| {
            Box::pin(management::shutdown(api, r))
        }),
    ];
    for (group_version, version) in [("v1", "v1.0"), ("v1alpha1", "v1.0-alpha1")] {
        for (pattern, handler) in [
            (
                "configuration/{storeName}",
                (|api, r| Box::pin(configuration::get(api, r))) as Handler,
            ),
            ("configuration/{storeName}/subscribe", |api, r| {
                Box::pin(configuration::subscribe(api, r))
            }),
            ("configuration/{storeName}/{id}/unsubscribe", |api, r| {
                Box::pin(configuration::unsubscribe(api, r))
            }),
        ] {
            routes.push(route(
                "configuration",
                group_version,
                version,
                pattern,
                GET,
                handler,
            ));
        }
    }
    for (pattern, methods, handler) in [
        (
            "metadata",
            GET,
            (|api, r| Box::pin(management::metadata(api, r))) as Handler,
        ),
        ("metadata/{key}", PUT, |api, r| {
            Box::pin(management::put_metadata(api, r))
        }),
    ] {
        routes.push(Route {
            public: true,
            ..route("metadata", "v1", "v1.0", pattern, methods, handler)
        });
    }
    for (pattern, handler) in [
        (
            "healthz",
            (|api, r| Box::pin(management::healthz(api, r))) as Handler,
        ),
        ("healthz/outbound", |api, r| {
            Box::pin(management::healthz_outbound(api, r))
        }),
    ] {
        routes.push(Route {
            public: true,
            always: true,
            ..route("healthz", "v1", "v1.0", pattern, GET, handler)
        });
    }
    routes.extend(actors());
    for (group_version, version) in [("v1", "v1.0"), ("v1alpha1", "v1.0-alpha1")] {
        let job = |methods, handler| route("jobs", group_version, version, "jobs/{name}", methods, handler);
        routes.push(job(POST, |api, r| Box::pin(jobs::schedule(api, r))));
        routes.push(job(GET, |api, r| Box::pin(jobs::get(api, r))));
        routes.push(job(DELETE, |api, r| Box::pin(jobs::delete(api, r))));
    }
    routes.extend(not_built::routes());
    routes
}

/// The routes of actors.
fn actors() -> Vec<Route> {
    const ANY: &[Method] = &[Method::GET, Method::POST, Method::PUT, Method::DELETE];
    const REMINDER: &str = "actors/{actorType}/{actorId}/reminders/{name}";
    const TIMER: &str = "actors/{actorType}/{actorId}/timers/{name}";
    let declare = |pattern, methods, handler| route("actors", "v1", "v1.0", pattern, methods, handler);
    vec![
        declare("actors/{actorType}/{actorId}/method/{method}", ANY, |api, r| {
            Box::pin(handlers::invoke(api, r))
        }),
        declare("actors/{actorType}/{actorId}/state", WRITE, |api, r| {
            Box::pin(handlers::transact(api, r))
        }),
        declare("actors/{actorType}/{actorId}/state/{key}", GET, |api, r| {
            Box::pin(handlers::get_state(api, r))
        }),
        declare(REMINDER, WRITE, |api, r| {
            Box::pin(handlers::create_reminder(api, r))
        }),
        declare(REMINDER, GET, |api, r| Box::pin(handlers::get_reminder(api, r))),
        declare(REMINDER, DELETE, |api, r| {
            Box::pin(handlers::delete_reminder(api, r))
        }),
        declare(TIMER, WRITE, |api, r| Box::pin(handlers::create_timer(api, r))),
        declare(TIMER, DELETE, |api, r| Box::pin(handlers::delete_timer(api, r))),
    ]
}
