//! Proves that the generated descriptors and the tables of the wire contract (`testdata/contract`, copied from the
//! project's contract) say the same, both ways: nothing missing, nothing extra.
//!
//! Both sides are turned into a set of plain sentences, one per fact; the proof is that the sets are equal.

#[path = "contract_tables/descriptors.rs"]
mod descriptors;
#[path = "contract_tables/tables.rs"]
mod tables;

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FieldOptions, FileDescriptorSet,
    MethodDescriptorProto, MethodOptions, ServiceDescriptorProto,
};

/// What is known of the wire, one fact per sentence.
type Facts = BTreeSet<String>;

fn generated() -> FileDescriptorSet {
    FileDescriptorSet::decode(outrigger_proto::FILE_DESCRIPTOR_SET).expect("the build wrote it")
}

/// The facts that only one of the two sides knows: (missing in the descriptors, extra in the descriptors).
fn differences(set: &FileDescriptorSet) -> (Vec<String>, Vec<String>) {
    let contract = tables::facts();
    let ours = descriptors::facts(set);
    let missing = contract.difference(&ours).cloned().collect();
    let extra = ours.difference(&contract).cloned().collect();
    (missing, extra)
}

#[test]
fn descriptors_and_contract_tables_state_the_same_facts() {
    let (missing, extra) = differences(&generated());
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing: {missing:#?}\nextra: {extra:#?}"
    );
}

#[test]
fn the_parser_of_the_tables_reads_as_many_facts_as_the_contract_counts() {
    let facts = tables::facts();
    for (package, counts) in tables::counts() {
        let count = |kind: &str| {
            facts
                .iter()
                .filter(|f| tables::is_about(f, kind, &package))
                .count()
        };
        let read = [
            count("service"),
            count("method"),
            count("message"),
            count("field"),
            count("enum"),
        ];
        assert_eq!(
            read, counts,
            "services, methods, messages, fields and enums of {package:?}"
        );
    }
}

fn message<'a>(set: &'a mut FileDescriptorSet, package: &str, name: &str) -> &'a mut DescriptorProto {
    let mut messages = set
        .file
        .iter_mut()
        .filter(|f| f.package() == package)
        .flat_map(|f| &mut f.message_type);
    messages
        .find(|m| m.name() == name)
        .unwrap_or_else(|| panic!("no {package}.{name}"))
}

fn field<'a>(set: &'a mut FileDescriptorSet, owner: &str, name: &str) -> &'a mut FieldDescriptorProto {
    let fields = &mut message(set, "dapr.proto.runtime.v1", owner).field;
    fields
        .iter_mut()
        .find(|f| f.name() == name)
        .unwrap_or_else(|| panic!("no {owner}.{name}"))
}

fn dapr(set: &mut FileDescriptorSet) -> &mut ServiceDescriptorProto {
    let mut services = set.file.iter_mut().flat_map(|f| &mut f.service);
    services.find(|s| s.name() == "Dapr").expect("no Dapr service")
}

fn method<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut MethodDescriptorProto {
    let methods = &mut dapr(set).method;
    methods
        .iter_mut()
        .find(|m| m.name() == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

fn verb(set: &mut FileDescriptorSet) -> &mut EnumDescriptorProto {
    &mut message(set, "dapr.proto.common.v1", "HTTPExtension").enum_type[0]
}

type Change = fn(&mut FileDescriptorSet);

/// Every kind of mistake that could slip into a .proto file, as a change to correct descriptors.
const MISTAKES: &[(&str, Change)] = &[
    ("a field has another number", |s| {
        field(s, "GetStateRequest", "key").number = Some(9);
    }),
    ("a field has another name", |s| {
        field(s, "GetStateRequest", "key").name = Some("keys".into());
    }),
    ("a field has another type", |s| {
        field(s, "GetStateRequest", "key").set_type(Type::Bytes);
    }),
    ("a field refers to another message", |s| {
        field(s, "InvokeServiceRequest", "message").type_name = Some(".dapr.proto.common.v1.Etag".into());
    }),
    ("a field is repeated", |s| {
        field(s, "GetStateRequest", "key").set_label(Label::Repeated);
    }),
    ("a field lost its presence", |s| {
        field(s, "Job", "ttl").proto3_optional = None;
    }),
    ("a field left its oneof", |s| {
        field(s, "ConversationTools", "function").oneof_index = None;
    }),
    ("a field has another name in JSON", |s| {
        field(s, "StartWorkflowRequest", "instance_id").json_name = Some("instanceId".into());
    }),
    ("a field is deprecated", |s| {
        field(s, "GetStateRequest", "key").options = Some(FieldOptions {
            deprecated: Some(true),
            ..Default::default()
        });
    }),
    ("a deprecated field is not", |s| {
        field(s, "GetMetadataResponse", "active_actors_count").options = None;
    }),
    ("repeated numbers are not packed", |s| {
        field(s, "GetStateRequest", "key").options = Some(FieldOptions {
            packed: Some(false),
            ..Default::default()
        });
    }),
    ("a field is missing", |s| {
        message(s, "dapr.proto.runtime.v1", "GetStateRequest").field.pop();
    }),
    ("a field is extra", |s| {
        let another = FieldDescriptorProto {
            name: Some("etag".into()),
            number: Some(5),
            ..Default::default()
        };
        message(s, "dapr.proto.runtime.v1", "GetStateRequest")
            .field
            .push(another);
    }),
    ("a map has other values", |s| {
        let entry = &mut message(s, "dapr.proto.common.v1", "StateItem").nested_type[0];
        entry.field[1].set_type(Type::Bytes);
    }),
    ("a reserved number is free", |s| {
        message(s, "dapr.proto.operator.v1", "ListComponentsRequest")
            .reserved_range
            .clear();
    }),
    ("a reserved name is free", |s| {
        message(s, "dapr.proto.operator.v1", "ListComponentsRequest")
            .reserved_name
            .clear();
    }),
    ("a oneof has another name", |s| {
        message(s, "", "HistoryEvent").oneof_decl[0].name = Some("event".into());
    }),
    ("a message is missing", |s| {
        let files = s
            .file
            .iter_mut()
            .filter(|f| f.package() == "dapr.proto.sentry.v1");
        files.for_each(|f| f.message_type.truncate(1));
    }),
    ("a message is extra", |s| {
        let another = DescriptorProto {
            name: Some("Extra".into()),
            ..Default::default()
        };
        s.file
            .iter_mut()
            .for_each(|f| f.message_type.push(another.clone()));
    }),
    ("a message is nested", |s| {
        let another = DescriptorProto {
            name: Some("Inner".into()),
            ..Default::default()
        };
        message(s, "dapr.proto.runtime.v1", "GetStateRequest")
            .nested_type
            .push(another);
    }),
    ("a message moved to another file", |s| {
        s.file
            .iter_mut()
            .for_each(|f| f.name = Some("elsewhere.proto".into()));
    }),
    ("a deprecated message is not", |s| {
        message(s, "dapr.proto.runtime.v1", "ConversationRequest").options = None;
    }),
    ("an enum value has another number", |s| {
        verb(s).value[1].number = Some(10);
    }),
    ("an enum value has another name", |s| {
        verb(s).value[1].name = Some("FETCH".into());
    }),
    ("an enum value is missing", |s| {
        verb(s).value.pop();
    }),
    ("an enum is missing", |s| {
        message(s, "dapr.proto.common.v1", "HTTPExtension")
            .enum_type
            .clear();
    }),
    ("an enum's reserved number is free", |s| {
        let enums = s.file.iter_mut().flat_map(|f| &mut f.enum_type);
        enums.for_each(|e| e.reserved_range.clear());
    }),
    ("a method has another name", |s| {
        method(s, "GetState").name = Some("FetchState".into());
    }),
    ("a method takes another message", |s| {
        method(s, "GetState").input_type = Some(".dapr.proto.runtime.v1.SaveStateRequest".into());
    }),
    ("a method answers with another message", |s| {
        method(s, "GetState").output_type = Some(".google.protobuf.Empty".into());
    }),
    ("a method reads a stream", |s| {
        method(s, "GetState").client_streaming = Some(true);
    }),
    ("a method answers with a stream", |s| {
        method(s, "GetState").server_streaming = Some(true);
    }),
    ("a method is deprecated", |s| {
        method(s, "GetState").options = Some(MethodOptions {
            deprecated: Some(true),
            ..Default::default()
        });
    }),
    ("a deprecated method is not", |s| {
        method(s, "GetJobAlpha1").options = None;
    }),
    ("a method is missing", |s| {
        dapr(s).method.pop();
    }),
    ("a service has another name", |s| {
        dapr(s).name = Some("Runtime".into());
    }),
    ("a service is missing", |s| {
        s.file
            .iter_mut()
            .filter(|f| f.package() == "dapr.proto.sentry.v1")
            .for_each(|f| f.service.clear());
    }),
    ("a file has another package", |s| {
        let files = s
            .file
            .iter_mut()
            .filter(|f| f.package() == "dapr.proto.sentry.v1");
        files.for_each(|f| f.package = Some("dapr.proto.sentry.v2".into()));
    }),
    ("a file has another syntax", |s| {
        let files = s
            .file
            .iter_mut()
            .filter(|f| f.package() == "dapr.proto.sentry.v1");
        files.for_each(|f| f.syntax = None);
    }),
    ("a package is missing", |s| {
        s.file.retain(|f| f.package() != "dapr.proto.workflows.v1");
    }),
];

#[test]
fn the_comparison_notices_every_kind_of_mistake() {
    for (mistake, make) in MISTAKES {
        let mut doctored = generated();
        make(&mut doctored);
        assert_ne!(doctored, generated(), "{mistake}: nothing was changed");
        let (missing, extra) = differences(&doctored);
        assert!(!missing.is_empty() || !extra.is_empty(), "not noticed: {mistake}");
    }
}
