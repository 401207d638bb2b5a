//! Who calls: API keys, looked up by their hash in the node's snapshot.

use std::sync::Arc;

use aws_lc_rs::digest;
use hookwire_proto::config::Role;
use tonic::metadata::MetadataMap;

use crate::cache::Snapshot;
use crate::cache::snapshot::ApiKey;
use crate::error::Error;

/// The SHA-256 of an API key: all of it that is kept here, even for the length of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHash([u8; digest::SHA256_OUTPUT_LEN]);

impl KeyHash {
    /// The key that a call brings, `authorization: Bearer <key>`.
    ///
    /// # Errors
    /// [`Error::KeyMissing`]; [`Error::KeyInvalid`] for what is sent in another form.
    pub fn of_call(metadata: &MetadataMap) -> Result<Self, Error> {
        let header = metadata.get("authorization").ok_or(Error::KeyMissing)?;
        let header = header.to_str().map_err(|_| Error::KeyInvalid)?;
        let (scheme, key) = header.split_once(' ').ok_or(Error::KeyInvalid)?;
        let key = key.trim_start_matches(' ');
        if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() {
            return Err(Error::KeyInvalid);
        }
        let hash = digest::digest(&digest::SHA256, key.as_bytes());
        Ok(Self(hash.as_ref().try_into().expect("a SHA-256 has 32 bytes")))
    }

    /// The API key, if the snapshot has it.
    ///
    /// # Errors
    /// [`Error::KeyInvalid`].
    pub fn authenticate(&self, snapshot: &Snapshot) -> Result<Arc<ApiKey>, Error> {
        snapshot.api_key(&self.0).cloned().ok_or(Error::KeyInvalid)
    }
}

/// Whether a key may publish at all.
///
/// # Errors
/// [`Error::PermissionDenied`].
pub fn may_publish(key: &ApiKey) -> Result<(), Error> {
    match key.role {
        Role::Admin | Role::TenantAdmin | Role::Publisher => Ok(()),
        Role::Viewer | Role::Unspecified => Err(denied(key, "may not publish: that needs role PUBLISHER or more")),
    }
}

/// Whether a key is for this tenant, `tenants/{tenant}`.
///
/// # Errors
/// [`Error::PermissionDenied`], whether or not the tenant exists.
pub fn is_for_tenant(key: &ApiKey, tenant: &str) -> Result<(), Error> {
    match &key.tenant {
        Some(own) if own != tenant => Err(denied(key, "is bound to another tenant")),
        Some(_) => Ok(()),
        // A tenant admin without a tenant is none; the control plane makes no such key.
        None if key.role == Role::TenantAdmin => Err(denied(key, "is of a tenant admin but bound to no tenant")),
        None => Ok(()),
    }
}

fn denied(key: &ApiKey, detail: &'static str) -> Error {
    Error::PermissionDenied { key: key.name.clone(), detail }
}
