//! The secrets that sign at a time. They are opened here and nowhere else, and wiped when the attempt is over.

use std::time::Duration;

use hookwire_proto::config::{Secret, secret::Algorithm};
use hookwire_proto::seal::MasterKeys;
use hookwire_proto::signing;
use zeroize::Zeroizing;

use super::{Error, standard};

/// A secret that is valid, opened.
pub struct Signer<'a> {
    secret: &'a Secret,
    algorithm: Algorithm,
    key: Zeroizing<Vec<u8>>,
}

impl Signer<'_> {
    /// Name of the secret.
    pub fn name(&self) -> &str {
        &self.secret.name
    }

    /// Its key, as bytes.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The secrets that are valid at a time, oldest first.
pub struct Signers<'a> {
    signers: Vec<Signer<'a>>,
    /// Which signs the token.
    token: Option<&'a Secret>,
}

impl<'a> Signers<'a> {
    /// Opens the secrets that are valid at a time (since 1970). One whose algorithm this version does not know signs nothing.
    ///
    /// # Errors
    /// [`Error::NoSecret`] if a secret has no key, [`Error::Seal`] if one does not open.
    pub fn open(secrets: &'a [Secret], keys: &MasterKeys, at: Duration) -> Result<Self, Error> {
        let at = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        let mut signers = Vec::with_capacity(secrets.len());
        for secret in secrets.iter().filter(|secret| signing::is_valid(secret, at)) {
            let Some(algorithm) = signing::algorithm(secret) else { continue };
            let sealed = secret.key.as_ref().ok_or(Error::NoSecret)?;
            signers.push(Signer { secret, algorithm, key: keys.open(&secret.name, sealed)? });
        }
        Ok(Self { signers, token: signing::of_token(secrets, at) })
    }

    /// `webhook-signature`: one signature by each of them, that of the newest first.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn signature(&self, message_id: &str, timestamp: &str, body: &[u8]) -> Result<String, Error> {
        let mut header = String::new();
        for signer in self.signers.iter().rev() {
            match signer.algorithm {
                Algorithm::Ed25519 => standard::sign_v1a(&mut header, &signer.key, message_id, timestamp, body)
                    .ok_or_else(|| Error::Key { name: signer.secret.name.clone() })?,
                _ => standard::sign(&mut header, &signer.key, message_id, timestamp, body),
            }
        }
        Ok(header)
    }

    /// The one that signs the token: [`signing::of_token`].
    pub fn token(&self) -> Option<&Signer<'a>> {
        let token = self.token?;
        self.signers.iter().find(|signer| std::ptr::eq(signer.secret, token))
    }

    /// Every private key in every form as bytes: an ed25519 key as the seed, and with its public key as others write it.
    pub fn into_keys(self) -> Vec<Zeroizing<Vec<u8>>> {
        let mut keys = Vec::with_capacity(self.signers.len());
        for signer in self.signers {
            if signer.algorithm == Algorithm::Ed25519
                && let Some(pair) = standard::key_pair(&signer.key)
            {
                keys.push(pair);
            }
            keys.push(signer.key);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> MasterKeys {
        MasterKeys::parse(&MasterKeys::generate()).unwrap()
    }

    fn secret(keys: &MasterKeys, id: &str, algorithm: i32, expire_time_ms: i64, promoted: i64) -> Secret {
        let name = format!("tenants/a/subscriptions/s/secrets/{id}");
        Secret { key: Some(keys.seal(&name, &[7; 32])), name, algorithm, expire_time_ms, promoted }
    }

    fn ids(signers: &Signers<'_>) -> Vec<String> {
        signers.signers.iter().map(|signer| hookwire_proto::name::last_id(signer.name()).to_owned()).collect()
    }

    fn token_id(signers: &Signers<'_>) -> Option<String> {
        signers.token().map(|signer| hookwire_proto::name::last_id(signer.name()).to_owned())
    }

    #[test]
    fn a_rotation_goes_from_the_old_secret_over_both_to_the_new_one_at_its_time_exactly() {
        let keys = keys();
        let secrets = [secret(&keys, "old", 1, 5_000, 0), secret(&keys, "new", 1, 0, 0)];
        let at = |ms| Signers::open(&secrets, &keys, Duration::from_millis(ms)).unwrap();
        for ms in [0, 4_999] {
            assert_eq!(ids(&at(ms)), ["old", "new"]);
            assert_eq!(token_id(&at(ms)).as_deref(), Some("old"), "recipients know this one");
        }
        for ms in [5_000, 5_001, 1 << 50] {
            assert_eq!(ids(&at(ms)), ["new"]);
            assert_eq!(token_id(&at(ms)).as_deref(), Some("new"));
        }
        let promoted = [secrets[0].clone(), Secret { promoted: 9, ..secrets[1].clone() }];
        let signers = Signers::open(&promoted, &keys, Duration::ZERO).unwrap();
        assert_eq!(
            (ids(&signers).len(), token_id(&signers).as_deref()),
            (2, Some("new")),
            "both sign, the new one the token"
        );
    }

    #[test]
    fn the_token_is_never_signed_by_another_algorithm() {
        let keys = keys();
        let secrets =
            [secret(&keys, "pair", 2, 0, 9), secret(&keys, "later", 99, 0, 9), secret(&keys, "hmac", 0, 0, 0)];
        let signers = Signers::open(&secrets, &keys, Duration::ZERO).unwrap();
        assert_eq!(ids(&signers), ["pair", "hmac"], "what is not known signs nothing");
        assert_eq!(token_id(&signers).as_deref(), Some("hmac"));
        assert!(Signers::open(&secrets[..2], &keys, Duration::ZERO).unwrap().token().is_none());
        let signature = signers.signature("msg_1", "1", b"{}").unwrap();
        let versions: Vec<_> = signature.split(' ').map(|one| one.split(',').next().unwrap()).collect();
        assert_eq!(versions, ["v1", "v1a"], "the newest first");
    }

    #[test]
    fn a_secret_that_is_no_key_of_its_algorithm_is_named() {
        let keys = keys();
        let name = "tenants/a/subscriptions/s/secrets/short";
        let short =
            Secret { key: Some(keys.seal(name, &[7; 31])), name: name.into(), algorithm: 2, ..Secret::default() };
        let secrets = [short];
        let error = Signers::open(&secrets, &keys, Duration::ZERO).unwrap().signature("m", "1", b"").unwrap_err();
        assert!(matches!(error, Error::Key { name: wrong } if wrong == name));
    }
}
