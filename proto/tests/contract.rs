//! The compiled descriptors against `cri/v1/table.tsv`, the wire contract: what either has, the other has, identically.

use std::collections::BTreeSet;

use cri::v1;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const TABLE: &str = include_str!("../cri/v1/table.tsv");
const PACKAGE: &str = "runtime.v1";

/// One line of the table: kind, owner, name, number, label, type.
type Row = [String; 6];

fn row(columns: [&str; 6]) -> Row {
    columns.map(str::to_owned)
}

fn rows_of_the_table() -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    for line in TABLE.lines().skip(1) {
        let mut columns: Vec<&str> = line.split('\t').collect();
        columns.resize(6, "");
        let fresh = rows.insert(row(columns.try_into().expect("resized to six")));
        assert!(fresh, "twice in the table: {line}");
    }
    rows
}

fn rows_of_the_descriptor(file: &FileDescriptorProto) -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    for message in &file.message_type {
        message_rows(message, &mut rows);
    }
    for enumeration in &file.enum_type {
        enum_rows("", enumeration, &mut rows);
    }
    for service in &file.service {
        for method in &service.method {
            let kind = match (method.client_streaming(), method.server_streaming()) {
                (false, false) => "unary",
                (false, true) => "stream",
                (true, false) => "client stream",
                (true, true) => "both stream",
            };
            let types = format!("{} -> {}", local(method.input_type()), local(method.output_type()));
            rows.insert(row(["rpc", service.name(), method.name(), "", kind, &types]));
        }
    }
    rows
}

fn message_rows(message: &DescriptorProto, rows: &mut BTreeSet<Row>) {
    let owner = message.name();
    // A field of a oneof would look like any other field in the table.
    assert!(
        message.oneof_decl.is_empty(),
        "{owner} has a oneof, which the table cannot say"
    );
    if message.field.is_empty() {
        rows.insert(row(["message", owner, "", "", "", ""]));
    }
    for field in &message.field {
        let (label, kind) = label_and_type(message, field);
        rows.insert(row([
            "field",
            owner,
            field.name(),
            &field.number().to_string(),
            label,
            &kind,
        ]));
    }
    for enumeration in &message.enum_type {
        enum_rows(owner, enumeration, rows);
    }
    for nested in &message.nested_type {
        assert!(
            is_map_entry(nested),
            "{owner} has the nested message {}, which the table does not know",
            nested.name()
        );
    }
}

fn enum_rows(outer: &str, enumeration: &EnumDescriptorProto, rows: &mut BTreeSet<Row>) {
    let owner = match outer {
        "" => enumeration.name().to_owned(),
        _ => format!("{outer}.{}", enumeration.name()),
    };
    for value in &enumeration.value {
        rows.insert(row(["enum", &owner, value.name(), &value.number().to_string(), "", ""]));
    }
}

fn label_and_type(message: &DescriptorProto, field: &FieldDescriptorProto) -> (&'static str, String) {
    let entry = message
        .nested_type
        .iter()
        .find(|nested| is_map_entry(nested) && field.type_name().ends_with(&format!(".{}", nested.name())));
    if let Some(entry) = entry {
        let [key, value] = [1, 2].map(|number| {
            entry
                .field
                .iter()
                .find(|f| f.number() == number)
                .map(type_name)
                .expect("a map entry has key and value")
        });
        return ("map", format!("map<{key},{value}>"));
    }
    let label = match field.label() {
        Label::Repeated => "repeated",
        Label::Optional | Label::Required => "single",
    };
    let deprecated = if field.options.as_ref().is_some_and(|o| o.deprecated()) {
        " deprecated"
    } else {
        ""
    };
    (label, type_name(field) + deprecated)
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(field.type_name()),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

/// `.runtime.v1.Mount` → `Mount`
fn local(full: &str) -> String {
    full.strip_prefix(&format!(".{PACKAGE}.")).unwrap_or(full).to_owned()
}

fn cri_file() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(cri::FILE_DESCRIPTOR_SET).expect("the build wrote it");
    set.file
        .into_iter()
        .find(|file| file.package() == PACKAGE)
        .expect("the build compiled it")
}

#[test]
fn the_compiled_interface_is_exactly_the_table() {
    let table = rows_of_the_table();
    let compiled = rows_of_the_descriptor(&cri_file());
    let missing: Vec<_> = table.difference(&compiled).collect();
    let extra: Vec<_> = compiled.difference(&table).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing: {missing:#?}\nextra: {extra:#?}"
    );
}

#[test]
fn the_interface_has_forty_one_methods_in_two_services() {
    let file = cri_file();
    let methods: Vec<_> = file
        .service
        .iter()
        .map(|service| (service.name(), service.method.len()))
        .collect();
    assert_eq!(methods, [("RuntimeService", 35), ("ImageService", 6)]);
    assert_eq!(file.syntax(), "proto3");
}

#[test]
fn a_method_is_called_under_the_path_that_the_kubelet_uses() {
    use cri::v1::runtime_service_server::SERVICE_NAME;
    assert_eq!(SERVICE_NAME, "runtime.v1.RuntimeService");
    assert_eq!(cri::v1::image_service_server::SERVICE_NAME, "runtime.v1.ImageService");
}

#[test]
fn a_list_that_the_server_has_encoded_is_the_message_that_the_client_reads() {
    let sandbox = v1::PodSandbox {
        id: "a".repeat(64),
        labels: [("key".to_owned(), "value".to_owned())].into(),
        ..Default::default()
    };
    let container = v1::Container {
        pod_sandbox_id: "b".repeat(64),
        state: v1::ContainerState::ContainerExited.into(),
        ..Default::default()
    };
    let sandboxes = list_of(&[sandbox.clone(), v1::PodSandbox::default()]);
    let read = v1::ListPodSandboxResponse::decode(&*sandboxes).unwrap();
    assert_eq!(read.items, [sandbox.clone(), v1::PodSandbox::default()]);
    let read = v1::StreamPodSandboxesResponse::decode(&*sandboxes).unwrap();
    assert_eq!(read.pod_sandboxes, [sandbox, v1::PodSandbox::default()]);
    let containers = list_of(&[container.clone(), container.clone()]);
    let read = v1::ListContainersResponse::decode(&*containers).unwrap();
    assert_eq!(read.containers, [container.clone(), container.clone()]);
    let read = v1::StreamContainersResponse::decode(&*containers).unwrap();
    assert_eq!(read.containers, [container.clone(), container]);
}

fn list_of(items: &[impl Message]) -> Vec<u8> {
    let items = items.iter().map(cri::encoded).collect();
    cri::EncodedList { items }.encode_to_vec()
}

#[test]
fn no_field_is_optional_by_keyword() {
    // `optional` would change presence, not the wire; the contract has none.
    for message in &cri_file().message_type {
        for field in &message.field {
            assert!(!field.proto3_optional(), "{}.{}", message.name(), field.name());
        }
    }
}
