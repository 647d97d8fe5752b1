//! Which path shows what. A path that has nothing to show now, or nothing for this peer, is neither found nor listed.

use super::documents;
use super::tree::Row;
use super::tree::Source::{Entry, FirstOf, Json, Names, Raw};

/// Every path, below its version. `*` is a name that the data give.
pub(super) const TABLE: &[Row] = &[
    Row("dynamic/instance-identity/document", Json(documents::identity)),
    Row("meta-data/ami-id", Entry("meta/image")),
    Row("meta-data/hostname", FirstOf(&["net/hostname", "meta/name"])),
    Row("meta-data/iam/info", Json(documents::iam_info)),
    Row(
        "meta-data/iam/security-credentials/*",
        Names(documents::roles, documents::role_credentials),
    ),
    Row("meta-data/instance-id", Entry("meta/instance-id")),
    Row("meta-data/instance-type", Entry("meta/instance-type")),
    Row(
        "meta-data/local-hostname",
        FirstOf(&["net/hostname", "meta/name"]),
    ),
    Row("meta-data/placement/availability-zone", Entry("meta/zone")),
    Row("meta-data/placement/host-id", Entry("meta/host")),
    Row("meta-data/placement/region", Entry("meta/region")),
    Row(
        "meta-data/public-keys/*/openssh-key",
        Names(documents::public_keys, documents::public_key),
    ),
    Row(
        "meta-data/tags/instance/*",
        Names(documents::tags, documents::tag),
    ),
    Row("user-data", Raw("user-data")),
];

/// The versions that `/` names; any other date is taken for a version as well.
pub(super) const VERSIONS: &[&str] = &[
    "2009-04-04",
    "2016-09-02",
    "2018-09-24",
    "2021-03-23",
    "2022-09-24",
    "latest",
];
