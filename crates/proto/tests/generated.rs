//! What other crates rely on: the descriptor set is complete, and every service can be served method by method.

use outrigger_proto as proto;
use prost_reflect::{DescriptorPool, DynamicMessage};

#[test]
fn the_descriptor_set_needs_nothing_from_outside() {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).expect("complete and consistent");
    for name in [
        "google.protobuf.Any",
        "google.protobuf.Struct",
        "google.rpc.Status",
        "google.rpc.ErrorInfo",
        "dapr.proto.runtime.v1.GetMetadataResponse",
        "durabletask.protos.backend.v1.WorkflowMetadata",
        "HistoryEvent",
    ] {
        assert!(pool.get_message_by_name(name).is_some(), "{name}");
    }
    for name in [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] {
        assert!(pool.get_service_by_name(name).is_some(), "{name}");
    }
}

#[test]
fn dynamic_messages_and_generated_types_agree_on_the_wire() {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).expect("complete and consistent");
    let descriptor = pool
        .get_message_by_name("dapr.proto.runtime.v1.StartWorkflowRequest")
        .expect("known");
    let json = serde_json::json!({ "instanceID": "order-1", "workflowName": "order", "appID": "shop", "input": "aGk=" });
    let dynamic = DynamicMessage::deserialize(descriptor, json.clone()).expect("protojson");
    let typed: proto::runtime::v1::StartWorkflowRequest = dynamic.transcode_to().expect("the same message");
    assert_eq!(typed.instance_id, "order-1");
    assert_eq!(typed.workflow_name, "order");
    assert_eq!(typed.app_id.as_deref(), Some("shop"));
    assert_eq!(typed.input, bytes::Bytes::from_static(b"hi"));
    assert_eq!(serde_json::to_value(&dynamic).expect("protojson"), json);
}

/// Serves nothing. That the implementations below are empty is the point: a method not written yet has an answer.
struct Nothing;

macro_rules! served_by_nothing {
    ($($package:ident::$version:ident::$module:ident::$service:ident),* $(,)?) => {
        $(
            #[tonic::async_trait]
            impl proto::$package::$version::$module::$service for Nothing {}
        )*
    };
}

served_by_nothing!(
    components::v1::input_binding_server::InputBinding,
    components::v1::output_binding_server::OutputBinding,
    components::v1::pub_sub_server::PubSub,
    components::v1::queriable_state_store_server::QueriableStateStore,
    components::v1::secret_store_server::SecretStore,
    components::v1::state_store_server::StateStore,
    components::v1::transactional_state_store_server::TransactionalStateStore,
    components::v1::transactional_store_multi_max_size_server::TransactionalStoreMultiMaxSize,
    internals::v1::service_invocation_server::ServiceInvocation,
    operator::v1::operator_server::Operator,
    placement::v1::placement_server::Placement,
    runtime::v1::app_callback_server::AppCallback,
    runtime::v1::app_callback_alpha_server::AppCallbackAlpha,
    runtime::v1::app_callback_health_check_server::AppCallbackHealthCheck,
    runtime::v1::dapr_server::Dapr,
    scheduler::v1::scheduler_server::Scheduler,
    sentry::v1::ca_server::Ca,
);

#[tonic::async_trait]
impl proto::durabletask::task_hub_sidecar_service_server::TaskHubSidecarService for Nothing {}

#[tokio::test]
async fn a_method_that_is_not_written_answers_unimplemented() {
    use proto::runtime::v1::dapr_server::Dapr;
    use proto::scheduler::v1::scheduler_server::Scheduler;

    let unary = Dapr::get_state(&Nothing, tonic::Request::new(Default::default())).await;
    assert_eq!(unary.expect_err("not written").code(), tonic::Code::Unimplemented);
    let stream = Scheduler::watch_hosts(&Nothing, tonic::Request::new(Default::default())).await;
    let Err(status) = stream else {
        panic!("a stream from nothing")
    };
    assert_eq!(status.code(), tonic::Code::Unimplemented);
}
