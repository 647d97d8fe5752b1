//! Users, groups, sessions, tokens and the keys of tokens.

use http::Method;
use moorline_shared::api::identity::{
    CreateGroup, CreateToken, CreateUser, GroupPage, IdentityChanged, LogIn, ModifyUser, ProgramToken,
    RefreshTokens, SessionPage, SessionQuery, SetUserPassword, TokenKeyPage, Tokens, UserPage, WhoAmI,
};
use moorline_shared::id::{GroupName, IdempotencyKey};
use moorline_shared::{Principal, UserName};

use crate::error::ClientError;
use crate::terms::key_header;
use crate::transport::Client;

impl Client {
    /// `LogIn`: the tokens of a new session. No token is needed for it. A lost answer is not asked for again: it would
    /// begin another session.
    pub async fn log_in(&self, body: &LogIn) -> Result<Tokens, ClientError> {
        self.answer(self.call(Method::POST, "/v1/sessions")?.json(body))
            .await
    }

    /// `RefreshTokens`: fresh tokens for a refresh token, which is good for it once. A lost answer is not asked for again:
    /// who shows the token twice is taken for a thief after a while.
    pub async fn refresh_tokens(&self, body: &RefreshTokens) -> Result<Tokens, ClientError> {
        self.answer(self.call(Method::POST, "/v1/tokens/refresh")?.json(body))
            .await
    }

    /// `WhoAmI`: whose the requests of this client are.
    pub async fn who_am_i(&self) -> Result<WhoAmI, ClientError> {
        self.answer(self.call(Method::GET, "/v1/whoami")?).await
    }

    /// `CreateToken`: an access token for a program.
    pub async fn create_token(
        &self,
        body: &CreateToken,
        key: &IdempotencyKey,
    ) -> Result<ProgramToken, ClientError> {
        self.change(Method::POST, "/v1/tokens", body, key).await
    }

    /// `DescribeSessions`: the caller's own, or somebody's.
    pub async fn describe_sessions(&self, query: &SessionQuery) -> Result<SessionPage, ClientError> {
        self.answer(self.call(Method::GET, "/v1/sessions")?.query(query))
            .await
    }

    /// `EndSession`: everything of it is worth nothing from now on.
    pub async fn end_session(
        &self,
        session: &str,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::DELETE, &format!("/v1/sessions/{session}"), key)
            .await
    }

    /// `CreateUser`.
    pub async fn create_user(
        &self,
        body: &CreateUser,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.change(Method::POST, "/v1/users", body, key).await
    }

    /// `SetUserPassword`.
    pub async fn set_user_password(
        &self,
        user: &UserName,
        body: &SetUserPassword,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        let target = format!("/v1/users/{user}/password");
        self.change(Method::PUT, &target, body, key).await
    }

    /// `ModifyUser`.
    pub async fn modify_user(
        &self,
        user: &UserName,
        body: &ModifyUser,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.change(Method::PATCH, &format!("/v1/users/{user}"), body, key)
            .await
    }

    /// `DeleteUser`.
    pub async fn delete_user(
        &self,
        user: &UserName,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::DELETE, &format!("/v1/users/{user}"), key).await
    }

    /// `DescribeUsers`: those of the caller's account.
    pub async fn describe_users(&self) -> Result<UserPage, ClientError> {
        self.answer(self.call(Method::GET, "/v1/users")?).await
    }

    /// `CreateGroup`.
    pub async fn create_group(
        &self,
        group: &GroupName,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        let body = CreateGroup { group: group.clone() };
        self.change(Method::POST, "/v1/groups", &body, key).await
    }

    /// `DeleteGroup`.
    pub async fn delete_group(
        &self,
        group: &GroupName,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::DELETE, &format!("/v1/groups/{group}"), key)
            .await
    }

    /// `AddGroupMember`: a user or an instance.
    pub async fn add_group_member(
        &self,
        group: &GroupName,
        member: &Principal,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::PUT, &format!("/v1/groups/{group}/members/{member}"), key)
            .await
    }

    /// `RemoveGroupMember`.
    pub async fn remove_group_member(
        &self,
        group: &GroupName,
        member: &Principal,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(
            Method::DELETE,
            &format!("/v1/groups/{group}/members/{member}"),
            key,
        )
        .await
    }

    /// `DescribeGroups`: those of the caller's account.
    pub async fn describe_groups(&self) -> Result<GroupPage, ClientError> {
        self.answer(self.call(Method::GET, "/v1/groups")?).await
    }

    /// `DescribeTokenKeys`.
    pub async fn describe_token_keys(&self) -> Result<TokenKeyPage, ClientError> {
        self.answer(self.call(Method::GET, "/v1/token-keys")?).await
    }

    /// `StageTokenKey`: a new key.
    pub async fn stage_token_key(&self, key: &IdempotencyKey) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::POST, "/v1/token-keys", key).await
    }

    /// `PromoteTokenKey`.
    pub async fn promote_token_key(
        &self,
        id: u32,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::POST, &format!("/v1/token-keys/{id}/promote"), key)
            .await
    }

    /// `RetireTokenKey`.
    pub async fn retire_token_key(
        &self,
        id: u32,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::POST, &format!("/v1/token-keys/{id}/retire"), key)
            .await
    }

    /// `DestroyTokenKey`, unless tokens may still need it.
    pub async fn destroy_token_key(
        &self,
        id: u32,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::DELETE, &format!("/v1/token-keys/{id}"), key)
            .await
    }

    /// `DestroyTokenKey`, whoever may still need it.
    pub async fn destroy_token_key_by_force(
        &self,
        id: u32,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.bare(Method::DELETE, &format!("/v1/token-keys/{id}?force=true"), key)
            .await
    }

    /// A change without a body.
    async fn bare(
        &self,
        method: Method,
        path: &str,
        key: &IdempotencyKey,
    ) -> Result<IdentityChanged, ClientError> {
        self.answer(self.call(method, path)?.headers(key_header(key)))
            .await
    }
}
