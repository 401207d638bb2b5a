//! Which secrets of a subscription sign at a time, and which of them the token: the same rule for the plane that signs and for
//! the one that tells people. Pure.

use crate::config::Secret;
use crate::config::secret::Algorithm;

/// Whether a secret is valid at a time, in milliseconds since 1970: its end is the first moment at which it is not.
pub fn is_valid(secret: &Secret, at_ms: i64) -> bool {
    secret.expire_time_ms == 0 || at_ms < secret.expire_time_ms
}

/// What a secret signs with; `None` if this version does not know.
pub fn algorithm(secret: &Secret) -> Option<Algorithm> {
    match Algorithm::try_from(secret.algorithm).ok()? {
        Algorithm::Unspecified => Some(Algorithm::HmacSha256),
        known => Some(known),
    }
}

/// Which secret signs the token: of those for HMAC that are valid, the one that was promoted last, else the oldest, which
/// recipients know. `secrets` oldest first.
pub fn of_token(secrets: &[Secret], at_ms: i64) -> Option<&Secret> {
    let hmac = |secret: &&Secret| is_valid(secret, at_ms) && algorithm(secret) == Some(Algorithm::HmacSha256);
    // Of equals, `max_by_key` takes the last.
    secrets.iter().rev().filter(hmac).max_by_key(|secret| secret.promoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(algorithm: i32, expire_time_ms: i64, promoted: i64) -> Secret {
        Secret { algorithm, expire_time_ms, promoted, ..Secret::default() }
    }

    #[test]
    fn a_rotation_goes_from_the_old_secret_to_the_new_one_at_its_time_exactly() {
        let (old, new) = (secret(1, 5_000, 0), secret(1, 0, 0));
        let secrets = [old.clone(), new.clone()];
        assert_eq!(of_token(&secrets, 4_999), Some(&old), "recipients know this one");
        assert_eq!(of_token(&secrets, 5_000), Some(&new));
        assert!(is_valid(&old, 4_999) && !is_valid(&old, 5_000) && is_valid(&new, i64::MAX));
        let promoted = [old, secret(1, 0, 9)];
        assert_eq!(of_token(&promoted, 0), Some(&promoted[1]));
    }

    #[test]
    fn another_algorithm_never_signs_the_token() {
        let secrets = [secret(2, 0, 9), secret(99, 0, 9), secret(0, 0, 0)];
        assert_eq!(of_token(&secrets, 0), Some(&secrets[2]));
        assert_eq!(of_token(&secrets[..2], 0), None);
        assert_eq!(algorithm(&secrets[1]), None);
    }

    proptest! {
        #[test]
        fn whatever_is_configured_a_valid_hmac_secret_signs_the_token(
            described in prop::collection::vec((0..3i32, 0..6i64, 0..4i64), 0..6), now in 0..6i64,
        ) {
            let secrets: Vec<_> = described.iter().map(|&(algorithm, end, promoted)| secret(algorithm, end, promoted)).collect();
            let valid = |secret: &&Secret| secret.algorithm != 2 && (secret.expire_time_ms == 0 || now < secret.expire_time_ms);
            let highest = secrets.iter().filter(valid).map(|secret| secret.promoted).max();
            let expected = secrets.iter().filter(valid).position(|secret| Some(secret.promoted) == highest);
            let found = of_token(&secrets, now);
            prop_assert_eq!(found, expected.and_then(|at| secrets.iter().filter(valid).nth(at)));
        }
    }
}
