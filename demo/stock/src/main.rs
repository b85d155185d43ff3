//! Keeps stock. Written with the official Rust SDK (crate `dapr`) and nothing of ours.
//!
//! `POST /reserve {"order": "1", "item": "apple", "quantity": 2}` takes goods out of stock, `GET /items/apple` tells
//! how many are left, and the event `order-placed` has the goods sent. The numbers are in the state store; ETags
//! keep two reservations at the same time from taking the same goods.

use std::collections::HashMap;
use std::error::Error;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use dapr::dapr::proto::common::v1::Etag;
use dapr::dapr::proto::common::v1::StateOptions;
use dapr::dapr::proto::common::v1::state_options::StateConcurrency;
use serde::Deserialize;
use serde_json::{Value, json};

type Dapr = dapr::Client<dapr::client::TonicClientWithAuth>;
/// What a handler says: a status with a JSON body, for good or bad.
type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

const STORE: &str = "statestore";
/// How many of each there are on the first day.
const FIRST_DELIVERY: i64 = 10;
/// How often a reservation that lost a race is tried again.
const TRIES: usize = 10;

#[derive(Deserialize)]
struct Reservation {
    order: String,
    item: String,
    quantity: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::var("APP_PORT")?;
    let dapr: Dapr = dapr::Client::new().await?;
    let app = Router::new()
        .route("/reserve", post(reserve))
        .route("/items/{item}", get(show))
        .route("/dapr/subscribe", get(subscriptions))
        .route("/send", post(send))
        .with_state(dapr);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open for orders");
    axum::serve(listener, app).await?;
    Ok(())
}

async fn reserve(State(mut dapr): State<Dapr>, Json(wish): Json<Reservation>) -> Answer {
    for _ in 0..TRIES {
        let (there, etag) = count(&mut dapr, &wish.item).await?;
        let left = there - wish.quantity;
        if wish.quantity <= 0 || left < 0 {
            println!(
                "order {}: only {there} {} in stock, refused",
                wish.order, wish.item
            );
            let text = format!("only {there} {} in stock", wish.item);
            return Err((StatusCode::CONFLICT, Json(json!({"message": text}))));
        }
        // First write wins: if somebody else changed the number since we read it, this save fails.
        let options = StateOptions {
            concurrency: StateConcurrency::ConcurrencyFirstWrite.into(),
            ..StateOptions::default()
        };
        let value = left.to_string().into_bytes();
        let key = wish.item.as_str();
        let saved = dapr
            .save_state(STORE, key, value, etag, None, Some(options))
            .await;
        match saved {
            Ok(()) => {
                println!(
                    "order {}: reserved {} x {}, {left} left",
                    wish.order, wish.quantity, wish.item
                );
                return Ok(Json(json!({"item": wish.item, "left": left})));
            }
            Err(dapr::error::Error::GrpcError(status)) if lost_race(&status) => {}
            Err(error) => return Err(broken(error)),
        }
    }
    Err((
        StatusCode::SERVICE_UNAVAILABLE,
        Json(json!({"message": "too busy, try again"})),
    ))
}

async fn show(State(mut dapr): State<Dapr>, Path(item): Path<String>) -> Answer {
    let (there, _) = count(&mut dapr, &item).await?;
    Ok(Json(json!({"item": item, "left": there})))
}

/// Asked by the sidecar when it starts.
async fn subscriptions() -> Json<Value> {
    Json(json!([{"pubsubname": "pubsub", "topic": "order-placed", "route": "/send"}]))
}

async fn send(Json(event): Json<HashMap<String, Value>>) -> Json<Value> {
    let order = event.get("data").and_then(|data| data.get("id"));
    let order = order.and_then(Value::as_str).unwrap_or("?");
    println!("order {order}: event order-placed arrived, goods sent");
    Json(json!({"status": "SUCCESS"}))
}

/// How many of an item there are, and the ETag of that number.
async fn count(dapr: &mut Dapr, item: &str) -> Result<(i64, Option<Etag>), (StatusCode, Json<Value>)> {
    let state = dapr.get_state(STORE, item, None).await.map_err(broken)?;
    if state.data.is_empty() {
        return Ok((FIRST_DELIVERY, None));
    }
    let number = serde_json::from_slice(&state.data).map_err(broken)?;
    Ok((number, Some(Etag { value: state.etag })))
}

/// The sidecar answers `Aborted` when the ETag is not the newest any more.
fn lost_race(status: &impl std::fmt::Debug) -> bool {
    format!("{status:?}").contains("Aborted")
}

fn broken(error: impl std::fmt::Display) -> (StatusCode, Json<Value>) {
    eprintln!("{error}");
    let text = error.to_string();
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"message": text})))
}
