//! Facts as compiled descriptors state them.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};

use super::Facts;

/// Packages that this crate carries beside the contract: public API of gRPC and protobuf.
const NOT_IN_THE_CONTRACT: &[&str] = &[
    "google.protobuf",
    "google.rpc",
    "grpc.health.v1",
    "grpc.reflection.v1",
    "grpc.reflection.v1alpha",
];

/// All facts of all files except [`NOT_IN_THE_CONTRACT`].
pub(crate) fn facts(set: &FileDescriptorSet) -> Facts {
    let mut facts = Facts::new();
    for file in &set.file {
        if !NOT_IN_THE_CONTRACT.contains(&file.package()) {
            file_facts(file, &mut facts);
        }
    }
    facts
}

fn file_facts(file: &FileDescriptorProto, facts: &mut Facts) {
    let package = file.package();
    let prefix = if package.is_empty() {
        String::new()
    } else {
        format!(".{package}")
    };
    let name = file.name().rsplit('/').next().unwrap_or_default();
    facts.insert(format!("file {name} of package '{package}' is {}", file.syntax()));
    if file.options.is_some() || !file.extension.is_empty() {
        facts.insert(format!(
            "file {name} of package '{package}' has options or extensions"
        ));
    }
    for message in &file.message_type {
        message_facts(message, &prefix, name, facts);
    }
    for one in &file.enum_type {
        enum_facts(one, &prefix, name, facts);
    }
    for service in &file.service {
        let full = format!("{prefix}.{}", service.name());
        facts.insert(format!(
            "service {full} in package '{package}', path prefix /{}/",
            &full[1..]
        ));
        for method in &service.method {
            facts.insert(method_fact(method, &full));
        }
    }
}

fn method_fact(method: &MethodDescriptorProto, service: &str) -> String {
    let kind = match (method.client_streaming(), method.server_streaming()) {
        (false, false) => "unary",
        (true, false) => "client-stream",
        (false, true) => "server-stream",
        (true, true) => "bidi",
    };
    let deprecated = method.options.as_ref().is_some_and(|o| o.deprecated());
    format!(
        "method {service}/{} {kind} {} to {}{}",
        method.name(),
        method.input_type(),
        method.output_type(),
        if deprecated { " deprecated" } else { "" }
    )
}

fn message_facts(message: &DescriptorProto, scope: &str, file: &str, facts: &mut Facts) {
    let full = format!("{scope}.{}", message.name());
    let deprecated = message.options.as_ref().is_some_and(|o| o.deprecated());
    facts.insert(format!(
        "message {full} in {file}{}",
        if deprecated { " deprecated" } else { "" }
    ));
    for field in &message.field {
        facts.insert(field_fact(field, message, &full));
    }
    for range in &message.reserved_range {
        for number in range.start()..range.end() {
            facts.insert(format!("reserved {full} {number}"));
        }
    }
    for name in &message.reserved_name {
        facts.insert(format!("reserved {full} \"{name}\""));
    }
    for nested in &message.nested_type {
        if !nested.options.as_ref().is_some_and(|o| o.map_entry()) {
            message_facts(nested, &full, file, facts);
        }
    }
    for one in &message.enum_type {
        enum_facts(one, &full, file, facts);
    }
}

fn enum_facts(one: &EnumDescriptorProto, scope: &str, file: &str, facts: &mut Facts) {
    let full = format!("{scope}.{}", one.name());
    facts.insert(format!("enum {full} in {file}"));
    for value in &one.value {
        facts.insert(format!("value {full} {} {}", value.number(), value.name()));
    }
    for range in &one.reserved_range {
        // Unlike a message's, an enum's range includes its end.
        for number in range.start()..=range.end() {
            facts.insert(format!("reserved {full} {number}"));
        }
    }
    for name in &one.reserved_name {
        facts.insert(format!("reserved {full} \"{name}\""));
    }
}

fn field_fact(field: &FieldDescriptorProto, owner: &DescriptorProto, owner_name: &str) -> String {
    let kind = if field.label() == Label::Repeated {
        match map_entry(field, owner) {
            Some(entry) => format!(
                "map<{}, {}>",
                type_name(&entry.field[0]),
                type_name(&entry.field[1])
            ),
            None => format!("repeated {}", type_name(field)),
        }
    } else {
        type_name(field)
    };
    let mut fact = format!(
        "field {owner_name} {} {}: {kind} json={}",
        field.number(),
        field.name(),
        field.json_name()
    );
    if field.proto3_optional() {
        fact.push_str(" optional");
    } else if let Some(index) = field.oneof_index {
        let oneof = usize::try_from(index).ok().and_then(|i| owner.oneof_decl.get(i));
        fact.push_str(&format!(
            " oneof={}",
            oneof.map_or("nothing", |oneof| oneof.name())
        ));
    }
    let mut options = field.options.clone().unwrap_or_default();
    if options.deprecated.take() == Some(true) {
        fact.push_str(" deprecated");
    }
    if options != Default::default() {
        fact.push_str(" other options");
    }
    fact
}

/// The entry type behind a map field, which protobuf writes as a repeated message.
fn map_entry<'a>(field: &FieldDescriptorProto, owner: &'a DescriptorProto) -> Option<&'a DescriptorProto> {
    let name = field.type_name().rsplit('.').next()?;
    owner
        .nested_type
        .iter()
        .find(|nested| nested.name() == name && nested.options.as_ref().is_some_and(|o| o.map_entry()))
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Enum => format!("enum {}", field.type_name()),
        Type::Message => field.type_name().to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}
