//! Secrets as they are in rows: sealed for their resource, encoded as `config.v1.Sealed`.

use hookwire_proto::config::Sealed;
use hookwire_proto::name;
use hookwire_proto::seal::MasterKeys;
use prost::Message as _;

use super::Error;

/// The decoded bytes of a signing secret, sealed for the secret's name.
pub(super) fn secret(keys: &MasterKeys, secret: &name::Secret, key: &[u8]) -> Vec<u8> {
    keys.seal(&secret.to_string(), key).encode_to_vec()
}

/// The value of a pre-shared key, sealed for the subscription's name and `/sharedKey`.
pub(super) fn shared_key(keys: &MasterKeys, subscription: &name::Subscription, value: &[u8]) -> Vec<u8> {
    keys.seal(&format!("{subscription}/sharedKey"), value).encode_to_vec()
}

/// A row's bytes as nodes get them, still sealed.
pub(super) fn decode(bytes: &[u8], name: &str) -> Result<Sealed, Error> {
    Sealed::decode(bytes).map_err(|error| Error::Corrupt { detail: format!("the sealed secret of {name}: {error}") })
}
