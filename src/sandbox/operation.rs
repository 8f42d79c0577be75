//! The operations of the simulated services, by the names of the contract (hardware-api.md, appendix A.1), and the one
//! request that is being served.

use axum::http::Method;
use serde::Serialize;
use uuid::Uuid;

/// Which service an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Token,
    Api,
    Blob,
}

macro_rules! operations {
    ($($variant:ident $name:literal $service:ident),* $(,)?) => {
        /// One operation of the contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub(super) enum Operation {
            $(#[serde(rename = $name)] $variant),*
        }

        impl Operation {
            /// The contract's name.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The service that answers it.
            pub(super) fn service(self) -> Service {
                match self { $(Self::$variant => Service::$service),* }
            }

            /// Whether a fault may be set on this name.
            pub(super) fn is_known(name: &str) -> bool {
                const GROUPS: [&str; 7] = ["*", "api", "blob", "token", "getToken", "createSubmission", "uploadPackage"];
                GROUPS.contains(&name) || [$($name),*].contains(&name)
            }
        }
    };
}

operations! {
    GetTokenV1 "getTokenV1" Token,
    GetTokenV2 "getTokenV2" Token,
    ListProducts "listProducts" Api,
    GetProduct "getProduct" Api,
    CreateProduct "createProduct" Api,
    UpdateProduct "updateProduct" Api,
    ListSubmissions "listSubmissions" Api,
    GetSubmission "getSubmission" Api,
    CreateInitialSubmission "createInitialSubmission" Api,
    CreateDerivedSubmission "createDerivedSubmission" Api,
    UpdateSubmission "updateSubmission" Api,
    CommitSubmission "commitSubmission" Api,
    CreatePublisherMetadata "createPublisherMetadata" Api,
    PutBlob "putBlob" Blob,
    PutBlock "putBlock" Blob,
    PutBlockList "putBlockList" Blob,
    GetBlockList "getBlockList" Blob,
    HeadBlob "headBlob" Blob,
    DownloadBlob "downloadBlob" Blob,
    DeleteBlob "deleteBlob" Blob,
    DownloadCertificationReport "downloadCertificationReport" Blob,
    Unknown "unknown" Api,
}

impl Operation {
    /// Whether a fault on `name` (an operation, one of the contract's wider names, a service or `*`) means this one.
    pub(super) fn is_named(self, name: &str) -> bool {
        match name {
            "*" => true,
            "api" => self.service() == Service::Api,
            "blob" => self.service() == Service::Blob,
            "token" | "getToken" => self.service() == Service::Token,
            "createSubmission" => matches!(self, Self::CreateInitialSubmission | Self::CreateDerivedSubmission),
            "uploadPackage" => matches!(self, Self::PutBlob | Self::PutBlock | Self::PutBlockList),
            own => own == self.name(),
        }
    }

    /// Whether it changes what the account has at the hardware API.
    pub(super) fn is_write(self) -> bool {
        match self {
            Self::CreateProduct
            | Self::UpdateProduct
            | Self::CreateInitialSubmission
            | Self::CreateDerivedSubmission
            | Self::UpdateSubmission
            | Self::CommitSubmission
            | Self::CreatePublisherMetadata => true,
            Self::GetTokenV1
            | Self::GetTokenV2
            | Self::ListProducts
            | Self::GetProduct
            | Self::ListSubmissions
            | Self::GetSubmission
            | Self::PutBlob
            | Self::PutBlock
            | Self::PutBlockList
            | Self::GetBlockList
            | Self::HeadBlob
            | Self::DownloadBlob
            | Self::DeleteBlob
            | Self::DownloadCertificationReport
            | Self::Unknown => false,
        }
    }
}

/// What is known of the request being served: what faults are matched with and the journal records.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) method: Method,
    /// Without the query: that of a blob is a secret.
    pub(super) path: String,
    pub(super) correlation_id: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) tenant_id: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) token_serial: u64,
    pub(super) product_id: Option<u64>,
    pub(super) submission_id: Option<u64>,
    pub(super) product_name: Option<String>,
    pub(super) blob: Option<Uuid>,
    pub(super) block_id: Option<String>,
    pub(super) size: Option<u64>,
    pub(super) md5: Option<String>,
}

impl Call {
    pub(super) fn new(operation: Operation, method: &Method, path: &str) -> Self {
        Self {
            operation,
            method: method.clone(),
            path: path.to_owned(),
            correlation_id: None,
            request_id: None,
            tenant_id: None,
            client_id: None,
            token_serial: 0,
            product_id: None,
            submission_id: None,
            product_name: None,
            blob: None,
            block_id: None,
            size: None,
            md5: None,
        }
    }
}
