//! Operation records.

use http::Method;
use moorline_shared::OperationId;
use moorline_shared::api::operations::{Operation, OperationPage, OperationQuery};

use crate::error::ClientError;
use crate::transport::Client;

impl Client {
    /// `ListOperations`: one page of the records, the newest first.
    pub async fn list_operations(&self, query: &OperationQuery) -> Result<OperationPage, ClientError> {
        self.answer(self.call(Method::GET, "/v1/operations")?.query(query))
            .await
    }

    /// `DescribeOperation`: one record.
    pub async fn describe_operation(&self, operation: OperationId) -> Result<Operation, ClientError> {
        let target = format!("/v1/operations/{operation}");
        self.answer(self.call(Method::GET, &target)?).await
    }
}
