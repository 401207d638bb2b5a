//! Remembered answers: a repeat of a request with the same `request_id` gets the first answer (AIP-155).
//!
//! The answer is written in the transaction of the change itself, sealed, since it may show a secret.

use std::time::Duration;

use aws_lc_rs::digest;
use hookwire_proto::config::Sealed;
use hookwire_proto::seal;
use prost::Message;
use sea_orm::{ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, QueryFilter as _, Set};
use zeroize::Zeroizing;

use super::entity::answer::{ActiveModel, Column, Entity};
use super::write::Write;
use super::{Error, Store};

/// How long an answer is remembered.
pub const ANSWER_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Old answers are deleted with each so many writes.
const OFTEN: i64 = 100;
const FINGERPRINT_BYTES: usize = 32;

/// A request that is to be carried out once.
#[derive(Debug, Clone)]
pub struct Once {
    id: String,
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Once {
    /// `id` is the caller's; the request is what is compared with a repeat.
    pub fn new(id: &str, method: &str, request: &impl Message) -> Self {
        let mut bytes = Zeroizing::new(method.as_bytes().to_vec());
        bytes.push(0);
        bytes.extend_from_slice(&Zeroizing::new(request.encode_to_vec()));
        let hash = digest::digest(&digest::SHA256, &bytes);
        Self { id: id.to_ascii_lowercase(), fingerprint: hash.as_ref().try_into().expect("SHA-256 has 32 bytes") }
    }
}

impl Store {
    /// This store for one request that is carried out once.
    #[must_use]
    pub fn once(&self, once: Option<Once>) -> Self {
        Self { once, ..self.clone() }
    }
}

impl Write<'_> {
    /// The answer that this request has had before, if it has.
    pub async fn answered<M: Message + Default>(&self) -> Result<Option<M>, Error> {
        let Some(once) = &self.store.once else { return Ok(None) };
        let caller = &self.store.actor.caller;
        let row = Entity::find_by_id((caller.clone(), once.id.clone())).one(&self.transaction).await?;
        let Some(row) = row.filter(|row| row.create_time > self.now - ANSWER_LIFE) else { return Ok(None) };
        let corrupt = |detail: String| Error::Corrupt { detail: format!("the answer to {}: {detail}", once.id) };
        let sealed = Sealed::decode(&*row.sealed).map_err(|error| corrupt(error.to_string()))?;
        let opened = self.store.master_keys.open(&sealed_for(caller, &once.id), &sealed);
        let opened = opened.map_err(|error| match error {
            // Carried out again it must not be.
            seal::Error::UnknownKey { key_id } => {
                tracing::warn!(
                    key_id,
                    "a remembered answer is under a master key that is not here: reseal before one is taken away"
                );
                Error::AnswerLost
            }
            error => corrupt(error.to_string()),
        })?;
        let (fingerprint, answer) =
            opened.split_at_checked(FINGERPRINT_BYTES).ok_or_else(|| corrupt("too short".into()))?;
        if fingerprint != once.fingerprint {
            return Err(Error::RequestIdReused);
        }
        M::decode(answer).map(Some).map_err(|error| corrupt(error.to_string()))
    }

    /// Remembers the answer, if the request is to be carried out once, and makes it all so. Returns the revision.
    pub async fn commit_with(self, answer: &impl Message) -> Result<i64, Error> {
        if let Some(once) = &self.store.once {
            let caller = &self.store.actor.caller;
            let mut plain = Zeroizing::new(once.fingerprint.to_vec());
            plain.extend_from_slice(&Zeroizing::new(answer.encode_to_vec()));
            let sealed = self.store.master_keys.seal(&sealed_for(caller, &once.id), &plain).encode_to_vec();
            // One that is too old to be given may still be there.
            Entity::delete_by_id((caller.clone(), once.id.clone())).exec(&self.transaction).await?;
            ActiveModel {
                caller: Set(caller.clone()),
                request_id: Set(once.id.clone()),
                sealed: Set(sealed),
                create_time: Set(self.now),
            }
            .insert(&self.transaction)
            .await?;
        }
        if self.revision % OFTEN == 0 {
            let oldest = self.now - ANSWER_LIFE;
            Entity::delete_many().filter(Column::CreateTime.lte(oldest)).exec(&self.transaction).await?;
        }
        self.commit().await
    }
}

/// What the sealed answer is bound to.
pub(super) fn sealed_for(caller: &str, request_id: &str) -> String {
    format!("{caller}/answers/{request_id}")
}
