//! What a recipient asks of its callers besides signatures: headers of its own, a password, an access token. And the key of a
//! client certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookwire_proto::config::{BasicAuth, ClientCertificate, CustomHeader, OAuthClient, custom_header::Content};
use hookwire_proto::seal::{self, MasterKeys};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{Error, Secrets};

/// Sets the headers of a subscription's own.
///
/// # Errors
/// [`Error::Seal`], or [`Error::Header`] if one can't be sent.
pub fn headers(
    subscription: &str,
    custom: &[CustomHeader],
    keys: &MasterKeys,
    headers: &mut HeaderMap,
    secrets: &mut Secrets,
) -> Result<(), Error> {
    let unsendable = || Error::Header { name: "of the subscription's own" };
    for header in custom {
        let name = HeaderName::try_from(&header.name).map_err(|_| unsendable())?;
        let value = match &header.content {
            Some(Content::Value(value)) => HeaderValue::try_from(value).map_err(|_| unsendable())?,
            Some(Content::SecretValue(sealed)) => {
                let plain = keys.open(&format!("{subscription}/headers/{}", header.name), sealed)?;
                let mut value = HeaderValue::from_bytes(&plain).map_err(|_| unsendable())?;
                value.set_sensitive(true);
                secrets.texts.push(plain);
                value
            }
            None => continue,
        };
        headers.insert(name, value);
    }
    Ok(())
}

/// Sets `authorization` to user name and password (RFC 7617).
///
/// # Errors
/// [`Error::Seal`], or [`Error::Header`] if there is no password.
pub fn basic(
    subscription: &str,
    basic: &BasicAuth,
    keys: &MasterKeys,
    headers: &mut HeaderMap,
    secrets: &mut Secrets,
) -> Result<(), Error> {
    let sealed = basic.password.as_ref().ok_or(Error::Header { name: "authorization" })?;
    let password = keys.open(&format!("{subscription}{}", seal::BASIC), sealed)?;
    let pair = Zeroizing::new([basic.username.as_bytes(), b":", &password[..]].concat());
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    set_authorization(headers, &Zeroizing::new(format!("Basic {}", *encoded)))?;
    secrets.texts.push(encoded.as_bytes().to_vec().into());
    secrets.texts.push(password);
    Ok(())
}

/// Sets `authorization` to an access token (RFC 6750).
///
/// # Errors
/// [`Error::Header`] if it can't be sent.
pub fn bearer(token: &str, headers: &mut HeaderMap, secrets: &mut Secrets) -> Result<(), Error> {
    set_authorization(headers, &Zeroizing::new(format!("Bearer {token}")))?;
    secrets.texts.push(token.as_bytes().to_vec().into());
    Ok(())
}

fn set_authorization(headers: &mut HeaderMap, text: &str) -> Result<(), Error> {
    let mut value = HeaderValue::try_from(text).map_err(|_| Error::Header { name: "authorization" })?;
    value.set_sensitive(true);
    headers.insert(AUTHORIZATION, value);
    Ok(())
}

/// The secret of an OAuth client.
///
/// # Errors
/// [`Error::Seal`], or [`Error::Header`] if there is none.
pub fn client_secret(subscription: &str, client: &OAuthClient, keys: &MasterKeys) -> Result<Zeroizing<Vec<u8>>, Error> {
    let sealed = client.client_secret.as_ref().ok_or(Error::Header { name: "authorization" })?;
    Ok(keys.open(&format!("{subscription}{}", seal::OAUTH), sealed)?)
}

/// The private key of a client certificate, in PEM.
///
/// # Errors
/// [`Error::Seal`], or [`Error::Certificate`] if there is none.
pub fn private_key(
    subscription: &str,
    certificate: &ClientCertificate,
    keys: &MasterKeys,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let sealed = certificate.private_key.as_ref().ok_or(Error::Certificate)?;
    Ok(keys.open(&format!("{subscription}{}", seal::CLIENT_KEY), sealed)?)
}
