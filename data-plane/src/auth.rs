//! Who calls: API keys, looked up by their hash in the node's snapshot.

use std::net::IpAddr;
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
        if key.starts_with("hwt_") {
            return Err(Error::TenantToken);
        }
        if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() {
            return Err(Error::KeyInvalid);
        }
        let hash = digest::digest(&digest::SHA256, key.as_bytes());
        Ok(Self(hash.as_ref().try_into().expect("a SHA-256 has 32 bytes")))
    }

    /// The API key, if the snapshot has it, it has not expired, and it may be used from where the call comes from.
    ///
    /// # Errors
    /// [`Error::KeyInvalid`], [`Error::KeyExpired`], [`Error::PermissionDenied`].
    pub fn authenticate(&self, snapshot: &Snapshot, now_ms: i64, source: Option<IpAddr>) -> Result<Arc<ApiKey>, Error> {
        let key = snapshot.api_key(&self.0).cloned().ok_or(Error::KeyInvalid)?;
        if key.expire_time_ms.is_some_and(|expire_time_ms| expire_time_ms <= now_ms) {
            return Err(Error::KeyExpired);
        }
        let is_in = |source: IpAddr| key.source_cidrs.iter().any(|cidr| cidr.contains(&source.to_canonical()));
        if !key.source_cidrs.is_empty() && !source.is_some_and(is_in) {
            return Err(denied(&key, "is not taken from this address, which is not in its source_cidrs"));
        }
        Ok(key)
    }
}

/// The scope that lets a key publish, if it has scopes.
const PUBLISH: &str = "messages.publish";

/// Whether a key may publish at all.
///
/// # Errors
/// [`Error::PermissionDenied`].
pub fn may_publish(key: &ApiKey) -> Result<(), Error> {
    if !key.scopes.is_empty() && !key.scopes.iter().any(|scope| scope == PUBLISH) {
        return Err(denied(key, "may not publish: its scopes lack messages.publish"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use hookwire_proto::config::{self, resource};

    fn authenticate(key: config::ApiKey, now_ms: i64, source: Option<&str>) -> Result<Arc<ApiKey>, Error> {
        let hash = digest::digest(&digest::SHA256, b"hwk_key").as_ref().to_vec();
        let key = config::ApiKey { hash: hash.into(), role: Role::Publisher.into(), ..key };
        let snapshot = Snapshot::new(1, [config::Resource { resource: Some(resource::Resource::ApiKey(key)) }]);
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", "Bearer hwk_key".parse().unwrap());
        let source = source.map(|source| source.parse().unwrap());
        KeyHash::of_call(&metadata)?.authenticate(&snapshot, now_ms, source)
    }

    #[test]
    fn a_key_is_taken_until_it_expires() {
        let key = config::ApiKey { expire_time_ms: 1_000, ..Default::default() };
        assert!(authenticate(key.clone(), 999, None).is_ok());
        assert_eq!(authenticate(key, 1_000, None).unwrap_err(), Error::KeyExpired);
        assert!(authenticate(config::ApiKey::default(), i64::MAX, None).is_ok());
    }

    #[test]
    fn a_key_is_taken_from_its_addresses_only() {
        let key = |cidr: &str| config::ApiKey { source_cidrs: vec![cidr.into()], ..Default::default() };
        assert!(authenticate(key("203.0.113.0/24"), 0, Some("203.0.113.7")).is_ok());
        assert!(authenticate(key("203.0.113.0/24"), 0, Some("::ffff:203.0.113.7")).is_ok());
        for (cidr, source) in
            [("203.0.113.0/24", Some("203.0.114.7")), ("203.0.113.0/24", None), ("?", Some("1.2.3.4"))]
        {
            let refused = authenticate(key(cidr), 0, source).unwrap_err();
            assert!(matches!(refused, Error::PermissionDenied { .. }), "{cidr} {source:?}");
        }
    }

    #[test]
    fn scopes_narrow_a_publisher() {
        let key = |scopes: &[&str]| config::ApiKey {
            scopes: scopes.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let may = |scopes: &[&str]| may_publish(&authenticate(key(scopes), 0, None).unwrap()).is_ok();
        assert!(may(&[]) && may(&["eventTypes.read", "messages.publish"]) && !may(&["eventTypes.read"]));
    }

    #[test]
    fn a_tenant_token_is_told_from_an_unknown_key() {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", "Bearer hwt_abc".parse().unwrap());
        assert_eq!(KeyHash::of_call(&metadata), Err(Error::TenantToken));
    }
}
