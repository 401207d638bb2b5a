//! The pre-shared key: a value agreed beforehand, in a header of its own.

use hookwire_proto::config::SharedKey;
use hookwire_proto::seal::MasterKeys;
use http::{HeaderName, HeaderValue};

use super::Error;

/// The header that carries a subscription's pre-shared key.
///
/// # Errors
/// [`Error::Seal`] if it does not open, [`Error::Header`] if it can't be sent.
pub fn header(subscription: &str, key: &SharedKey, keys: &MasterKeys) -> Result<(HeaderName, HeaderValue), Error> {
    let sealed = key.value.as_ref().ok_or(Error::Header { name: "of the pre-shared key" })?;
    let value = keys.open(&format!("{subscription}/sharedKey"), sealed)?;
    let name = HeaderName::try_from(&key.header).map_err(|_| Error::Header { name: "of the pre-shared key" })?;
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| Error::Header { name: "of the pre-shared key" })?;
    value.set_sensitive(true);
    Ok((name, value))
}
