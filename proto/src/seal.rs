//! Sealed secrets: AES-256-GCM (NIST SP 800-38D) under a master key that both planes are given and nobody stores.
//!
//! The control plane seals before it writes; nodes open at use. Associated data is the resource name, so that a sealed
//! value moved to another row does not open. For a signing secret that is the secret's name, and what is sealed are the
//! decoded bytes of its `whsec_` text; for the value of a pre-shared key it is the subscription's name and `/sharedKey`; for
//! the secrets among a subscription's settings, its name and what [`visit`] says.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::config::subscription_settings::Authentication;
use crate::config::{Sealed, SubscriptionSettings, custom_header::Content};

/// After the subscription's name: the password of basic authentication.
pub const BASIC: &str = "/basic";
/// After the subscription's name: the secret of an OAuth client.
pub const OAUTH: &str = "/oauth";
/// After the subscription's name: the private key of a client certificate.
pub const CLIENT_KEY: &str = "/clientKey";

/// Sealing or opening failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text of a master key is not one.
    #[error("a master key is 32 random bytes in base64 (make one with `openssl rand -base64 32`)")]
    MalformedKey,
    /// Sealed under a master key that is not here.
    #[error("sealed under master key {key_id}, which is not configured here; add it to the master keys")]
    UnknownKey {
        /// Which key it was.
        key_id: String,
    },
    /// Changed, cut off, or sealed for another resource.
    #[error("does not open as {name}: changed, or sealed for another resource")]
    Broken {
        /// Name of the resource that it was to be opened for.
        name: String,
    },
}

/// The master keys: the first seals, each opens.
pub struct MasterKeys {
    newest: String,
    keys: HashMap<String, LessSafeKey>,
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKeys").field("newest", &self.newest).finish_non_exhaustive()
    }
}

impl MasterKeys {
    /// Reads keys from text: one on each line (32 bytes in standard base64), the newest first; blank lines and lines that
    /// begin with `#` are passed over.
    ///
    /// # Errors
    /// [`Error::MalformedKey`], also when there is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut newest = None;
        let mut keys = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let bytes = Zeroizing::new(STANDARD.decode(line).map_err(|_| Error::MalformedKey)?);
            let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| Error::MalformedKey)?;
            let id = hex::encode(&digest::digest(&digest::SHA256, &bytes).as_ref()[..8]);
            newest.get_or_insert_with(|| id.clone());
            keys.insert(id, LessSafeKey::new(key));
        }
        let newest = newest.ok_or(Error::MalformedKey)?;
        Ok(Self { newest, keys })
    }

    /// A new master key, as text.
    pub fn generate() -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*Zeroizing::new(random::<32>())))
    }

    /// Id of the key that seals.
    pub fn newest(&self) -> &str {
        &self.newest
    }

    /// Whether what is sealed under the key with this id can be opened.
    pub fn has(&self, key_id: &str) -> bool {
        self.keys.contains_key(key_id)
    }

    /// Seals `plain` for the resource `name` under the newest key.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Sealed {
        let key = self.keys.get(&self.newest).expect("the newest key is one of the keys");
        let nonce = random::<NONCE_LEN>();
        let mut sealed = nonce.to_vec();
        // Room for the tag: it is not moved while it is in clear.
        let mut body = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(plain);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()), &mut body)
            .expect("AES-GCM seals anything shorter than 64 GiB");
        sealed.append(&mut body);
        Sealed { key_id: self.newest.clone(), r#box: Bytes::from(sealed) }
    }

    /// Opens what was sealed for the resource `name`. The result is wiped when it is dropped.
    ///
    /// # Errors
    /// [`Error::UnknownKey`] and [`Error::Broken`].
    pub fn open(&self, name: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key = self.keys.get(&sealed.key_id).ok_or_else(|| Error::UnknownKey { key_id: sealed.key_id.clone() })?;
        let broken = || Error::Broken { name: name.to_owned() };
        let (nonce, body) = sealed.r#box.split_at_checked(NONCE_LEN).ok_or_else(broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut body).map_err(|_| broken())?.len();
        body.truncate(length);
        Ok(body)
    }
}

/// Shows each sealed value among a subscription's settings, with what follows the subscription's name in the name that it is
/// sealed for: `/headers/{name}`, `/basic`, `/oauth`, `/clientKey`. One that is missing is shown as the default, an empty box.
pub fn visit(settings: &mut SubscriptionSettings, mut visitor: impl FnMut(&str, &mut Sealed)) {
    for header in &mut settings.headers {
        if let Some(Content::SecretValue(sealed)) = &mut header.content {
            visitor(&format!("/headers/{}", header.name), sealed);
        }
    }
    match &mut settings.authentication {
        Some(Authentication::BasicAuth(basic)) => visitor(BASIC, basic.password.get_or_insert_default()),
        Some(Authentication::OauthClient(oauth)) => visitor(OAUTH, oauth.client_secret.get_or_insert_default()),
        None => {}
    }
    if let Some(certificate) = &mut settings.client_certificate {
        visitor(CLIENT_KEY, certificate.private_key.get_or_insert_default());
    }
}

/// Random bytes from the crypto provider.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "tenants/a/subscriptions/s/secrets/k";

    fn keys() -> MasterKeys {
        MasterKeys::parse(&MasterKeys::generate()).expect("a generated key is valid")
    }

    #[test]
    fn opens_only_for_the_resource_it_was_sealed_for() {
        let keys = keys();
        let sealed = keys.seal(NAME, b"secret");
        assert_eq!(keys.open(NAME, &sealed).map(|plain| plain.to_vec()), Ok(b"secret".to_vec()));
        let other = "tenants/b/subscriptions/s/secrets/k";
        assert_eq!(keys.open(other, &sealed), Err(Error::Broken { name: other.to_owned() }));
    }

    #[test]
    fn an_older_key_still_opens_and_the_newest_seals() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let before = MasterKeys::parse(&old).expect("valid").seal(NAME, b"secret");
        let both = MasterKeys::parse(&format!("# newest first\n{}\n\n{}\n", *new, *old)).expect("valid");
        assert_eq!(both.open(NAME, &before).map(|plain| plain.to_vec()), Ok(b"secret".to_vec()));
        assert_ne!(both.seal(NAME, b"secret").key_id, before.key_id);
        let only_new = MasterKeys::parse(&new).expect("valid");
        assert_eq!(only_new.open(NAME, &before), Err(Error::UnknownKey { key_id: before.key_id.clone() }));
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        for text in ["", "# nothing\n", "abc", "AAAA", "not base64 at all!"] {
            assert_eq!(MasterKeys::parse(text).err(), Some(Error::MalformedKey), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_box_never_opens(plain in any::<Vec<u8>>(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let keys = keys();
            let mut sealed = keys.seal(NAME, &plain);
            prop_assert_eq!(keys.open(NAME, &sealed).map(|opened| opened.to_vec()), Ok(plain));
            let mut bytes = sealed.r#box.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            sealed.r#box = bytes.into();
            prop_assert!(keys.open(NAME, &sealed).is_err());
        }
    }
}
