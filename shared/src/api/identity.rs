//! Users, groups, sessions, tokens and the keys of tokens over HTTP.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AccountId, ClientName, DirectoryName, GroupName, OperationId, Principal, UserName};
use crate::revision::Revision;
use crate::secret::Secret;
use crate::ttl::Ttl;

/// The shortest password, in characters.
pub const MIN_PASSWORD_CHARS: usize = 8;
/// The longest password, in bytes.
pub const MAX_PASSWORD_BYTES: usize = 1_024;
/// The longest validity of a program's token: a year.
pub const MAX_TOKEN_SECONDS: u32 = 366 * 86_400;
/// The validity of a program's token that doesn't say: thirty days.
pub const DEFAULT_TOKEN_SECONDS: u32 = 30 * 86_400;

/// What a user may do in an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AccountRole {
    /// They administer it.
    Administrator,
    /// They have the rights that they are given.
    #[default]
    Member,
}

/// `CreateUser`: a user of the directory `local`, in the caller's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateUser {
    /// Their name.
    pub user: UserName,
    /// What they are in the account; a member if it isn't said.
    #[serde(default)]
    pub role: AccountRole,
    /// Their password, 8 characters to 1,024 bytes; without one they can't log in until one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub password: Option<Secret>,
}

/// `SetUserPassword`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetUserPassword {
    /// The new password, 8 characters to 1,024 bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub password: Secret,
    /// The password until now, which users who set their own must know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub current: Option<Secret>,
}

/// `ModifyUser`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ModifyUser {
    /// What they are in the account from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<AccountRole>,
    /// Whether they can be logged in from now on. Disabling ends all of their sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<UserState>,
}

/// Whether a user can be logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum UserState {
    /// They can.
    Enabled,
    /// They can't, and nothing of theirs is good.
    Disabled,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct User {
    /// Their name.
    pub user: UserName,
    /// The directory that knows them.
    pub directory: DirectoryName,
    /// The account.
    pub account: AccountId,
    /// What they are in it.
    pub role: AccountRole,
    /// Whether they can be logged in.
    pub state: UserState,
    /// Whether they have a password.
    pub has_password: bool,
    /// When they were made.
    pub created_at: Timestamp,
}

/// `DescribeUsers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserPage {
    /// The state the page shows.
    pub revision: Revision,
    /// The users, by name.
    pub users: Vec<User>,
}

/// `WhoAmI`: whose the request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WhoAmI {
    /// The caller.
    pub principal: Principal,
    /// The account that they act in.
    pub account: AccountId,
    /// Whether they administer it.
    pub administrator: bool,
}

/// `CreateGroup`: in the caller's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateGroup {
    /// Its name.
    pub group: GroupName,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Group {
    /// Its name.
    pub group: GroupName,
    /// Whose it is.
    pub account: AccountId,
    /// Its members: users and instances.
    pub members: Vec<Principal>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// `DescribeGroups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupPage {
    /// The state the page shows.
    pub revision: Revision,
    /// The groups, by name.
    pub groups: Vec<Group>,
}

/// What a change of users, groups, sessions or keys is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentityChanged {
    /// When it was committed.
    pub revision: Revision,
    /// Its record.
    pub operation: OperationId,
}

/// `LogIn`: a user proves who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogIn {
    /// Their name.
    pub user: UserName,
    /// Their password.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub password: Secret,
    /// The directory that knows them; `local` if it isn't said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryName>,
    /// The client that the tokens are given to, which has to be named again when they are refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientName>,
    /// In which form the tokens come.
    #[serde(default)]
    pub form: TokenForm,
}

/// In which form the tokens of a session come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TokenForm {
    /// An access token, and a refresh token.
    #[default]
    Separate,
    /// One that is both.
    Combined,
}

/// `RefreshTokens`: a refresh token for fresh tokens. It is good for this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RefreshTokens {
    /// The refresh token, `mlr_...`, or the combined one, `mlb_...`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub refresh_token: Secret,
    /// The client that it was given to, if it was given to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientName>,
}

/// The tokens of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Tokens {
    /// The session's id.
    pub session: String,
    /// Who they stand for.
    pub principal: Principal,
    /// The account that they act in.
    pub account: AccountId,
    /// To be sent with requests, as `Authorization: Bearer TOKEN`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub access_token: Secret,
    /// When the access token is no longer good.
    pub access_expires_at: Timestamp,
    /// How many seconds from now that is.
    pub access_expires_in_seconds: u64,
    /// To be exchanged for fresh tokens, once; absent where the access token is it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub refresh_token: Option<Secret>,
    /// When the session ends, and every token of it.
    pub session_expires_at: Timestamp,
}

/// `CreateToken`: an access token for a program, with a session of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateToken {
    /// What it is called in lists: 1 to 63 characters.
    pub name: String,
    /// For how many seconds it is good, at most 31,622,400; thirty days if it isn't said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
}

/// A program's token, which is shown this once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProgramToken {
    /// Its session, by which it is revoked.
    pub session: String,
    /// The token, `mla_...`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
    /// When it is no longer good.
    pub expires_at: Timestamp,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// Its id.
    pub session: String,
    /// Whose it is.
    pub principal: Principal,
    /// The account that they act in.
    pub account: AccountId,
    /// What it is for.
    pub kind: SessionKind,
    /// What a program's token is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SessionKind {
    /// Somebody logged in.
    Login,
    /// A program has a token.
    Program,
    /// An instance is known by it.
    Instance,
}

/// `DescribeSessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionPage {
    /// The state the page shows.
    pub revision: Revision,
    /// The sessions, the oldest first.
    pub sessions: Vec<Session>,
}

/// Whose sessions to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct SessionQuery {
    /// Whose, as in `user:ann`; the caller's own if it isn't said. Administrators may ask for anybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
}

/// A key that tokens are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenKey {
    /// Its id.
    pub key: u32,
    /// How far it is in its life.
    pub stage: TokenKeyStage,
    /// Since when.
    pub since: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How far a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TokenKeyStage {
    /// It opens tokens, and seals none yet.
    Staged,
    /// It seals tokens, and opens them.
    Primary,
    /// It only opens tokens.
    Retiring,
    /// What it sealed opens no more.
    Destroyed,
}

/// `DescribeTokenKeys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenKeyPage {
    /// The state the page shows.
    pub revision: Revision,
    /// The keys, by id.
    pub keys: Vec<TokenKey>,
}

/// How a key is destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct DestroyTokenKeyQuery {
    /// Whether it is destroyed even if tokens may still need it.
    #[serde(default)]
    pub force: bool,
}
