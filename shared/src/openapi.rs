//! How the types that are text in JSON appear in the `OpenAPI` document.

use std::borrow::Cow;

use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::access::{AccessList, Clause, Right, Rights, Subject, Tag};
use crate::digest::Digest;
use crate::entry::{ContentType, MAX_VALUE_BYTES, Origin, Value, Visibility};
use crate::id::{
    AccountId, ClientName, DirectoryName, GroupName, HostId, ImageName, InstanceId, OperationId, Principal,
    RoleName, ServiceName, TypeName, UserName, ZoneName,
};
use crate::path::{EntryPath, PathPrefix};
use crate::revision::Revision;
use crate::time::Timestamp;
use crate::ttl::Ttl;

fn text(description: &str, pattern: &str) -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern));
    RefOr::T(Schema::Object(object.build()))
}

fn words<'a>(description: &str, words: impl IntoIterator<Item = &'a str>) -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .enum_values(Some(words));
    RefOr::T(Schema::Object(object.build()))
}

macro_rules! schema {
    ($($type:ident => $schema:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                $schema
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }
        }
    )*};
}

const NAME: &str = "^[a-z0-9][a-z0-9._-]{0,62}$";
const PATH: &str =
    "^[A-Za-z0-9_.:@+=][A-Za-z0-9_.:@+=-]{0,127}(/[A-Za-z0-9_.:@+=][A-Za-z0-9_.:@+=-]{0,127}){0,15}$";

schema! {
    InstanceId => text("An instance.", "^i-[0-9a-f]{32}$");
    OperationId => text("An operation.", "^op-[0-9a-f]{64}$");
    Digest => text("A SHA-256 digest.", "^[0-9a-f]{64}$");
    AccountId => text("An account.", NAME);
    HostId => text("A host.", NAME);
    UserName => text("A user.", NAME);
    GroupName => text("A group.", NAME);
    DirectoryName => text("A directory.", NAME);
    ClientName => text("A client.", NAME);
    ServiceName => text("A service of the control plane.", NAME);
    ZoneName => text("A failure domain.", NAME);
    ImageName => text("An image.", NAME);
    TypeName => text("An instance type.", NAME);
    RoleName => text("A role.", NAME);
    Principal => text("Whoever acts.", "^(user|instance|host|service):.+$");
    EntryPath => text("The name of an entry; no segment is . or .., 512 bytes at most.", PATH);
    PathPrefix => text("An entry's path and all below it; empty for everything.", "^.{0,513}$");
    Timestamp => text("A time, RFC 3339.", "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z$");
    Revision => text("A place in the order of commits, EPOCH.N.", "^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)$");
    ContentType => text("What the bytes of a value are.", "^[ -.0-~]+/[ -~]+$");
    Subject => text("Whom a clause speaks of.", "^(owner|account|(user|instance|tag|service):.+)$");
    Tag => text("A tag.", "^[^=]{1,128}=.{1,128}$");
    Right => words("What may be done with an entry.", Right::ALL.map(Right::as_str));
    Rights => RefOr::T(ArrayBuilder::new().items(Ref::from_schema_name("Right")).build().into());
    Origin => words("Who determined an entry.", ["provider", "customer", "instance"]);
    Visibility => words("Whether describe names an entry.", ["public", "private"]);
    Ttl => RefOr::T(Schema::Object(ObjectBuilder::new()
        .schema_type(Type::Integer)
        .description(Some("Seconds."))
        .minimum(Some(1))
        .maximum(Some(Ttl::MAX_SECONDS))
        .build()));
    Clause => RefOr::T(Schema::Object(ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Rights for a subject."))
        .property("subject", Ref::from_schema_name("Subject"))
        .property("rights", Ref::from_schema_name("Rights"))
        .required("subject")
        .required("rights")
        .build()));
    AccessList => RefOr::T(ArrayBuilder::new()
        .items(Ref::from_schema_name("Clause"))
        .max_items(Some(AccessList::MAX_CLAUSES))
        .build()
        .into());
    Value => RefOr::T(Schema::OneOf(OneOfBuilder::new()
        .description(Some("The bytes of an entry: text where they are UTF-8, otherwise base64."))
        .item(ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_VALUE_BYTES)))
        .item(ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("base64", ObjectBuilder::new().schema_type(Type::String))
            .required("base64"))
        .build()));
}
