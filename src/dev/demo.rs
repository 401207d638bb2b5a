//! The demo tenant: there at every start, with the same keys.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookwire_control_plane::auth;
use hookwire_control_plane::store::{Error, NewApiKey, Store};
use hookwire_proto::name;
use hookwire_proto::v1::{self, api_key::Role};

use super::directory::Directory;
use super::welcome::Keys;

/// The tenant's id.
const TENANT: &str = "demo";
/// Ids of its API keys.
const ADMIN_KEY: &str = "dev-admin";
const PUBLISHER_KEY: &str = "dev-publisher";
/// Its event types, and what they mean.
const EVENT_TYPES: [(&str, &str); 4] = [
    ("invoice.paid", "An invoice was paid in full"),
    ("invoice.overdue", "An invoice was not paid in time"),
    ("user.created", "A user signed up"),
    ("user.deleted", "A user left"),
];
/// The file with the keys.
pub const KEYS_FILE: &str = "keys.json";
/// The file with the signing secret, as `hookwire listen` reads it.
pub const SECRET_FILE: &str = "signing-secret";

/// The keys, which are made at the first start. They are files before they are in the store: a crash between leaves none
/// that nobody knows.
pub fn keys(directory: &Directory) -> anyhow::Result<Keys> {
    let keys = match directory.read_json(KEYS_FILE)? {
        Some(keys) => keys,
        None => {
            let keys = Keys {
                tenant: format!("tenants/{TENANT}"),
                admin_key: new_key(ADMIN_KEY),
                publisher_key: new_key(PUBLISHER_KEY),
                signing_secret: format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>())),
            };
            directory.write_json(KEYS_FILE, &keys)?;
            keys
        }
    };
    directory.write(SECRET_FILE, &format!("{}\n", keys.signing_secret))?;
    Ok(keys)
}

fn new_key(id: &str) -> String {
    auth::new_key(&name::ApiKey { api_key: id.into() }).to_string()
}

/// Makes sure that the tenant, its event types and the keys are in the store.
pub async fn ensure(store: &Store, keys: &Keys) -> anyhow::Result<()> {
    let tenant = name::Tenant { tenant: TENANT.into() };
    let demo = v1::Tenant { display_name: "Demo".into(), ..Default::default() };
    created(store.create_tenant(&tenant, &demo).await).context("the demo tenant")?;
    for (event_type, description) in EVENT_TYPES {
        let event_type = name::EventType { tenant: TENANT.into(), event_type: event_type.into() };
        let new = v1::EventType { description: description.into(), ..Default::default() };
        created(store.create_event_type(&event_type, &new).await).context("its event types")?;
    }
    const MADE_BY: &str = "Made by hookwire dev";
    let admin = NewApiKey::unlimited(MADE_BY, Role::Admin, None, &keys.admin_key);
    let publisher = NewApiKey::unlimited(MADE_BY, Role::Publisher, Some(&tenant), &keys.publisher_key);
    for (id, new) in [(ADMIN_KEY, admin), (PUBLISHER_KEY, publisher)] {
        store.ensure_api_key(&name::ApiKey { api_key: id.into() }, new).await.context("its API keys")?;
    }
    Ok(())
}

fn created<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hookwire_control_plane::store::StoreSettings;
    use hookwire_proto::seal::MasterKeys;

    use super::*;

    #[tokio::test]
    async fn a_restart_finds_the_same_keys() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(parent.path()).expect("a directory");
        let first = keys(&directory).expect("keys");
        assert_eq!(keys(&directory).expect("the same"), first);

        let url = format!("sqlite://{}?mode=rwc", directory.file("hookwire.db").display());
        let settings = StoreSettings { url, ..StoreSettings::default() };
        let master_keys = Arc::new(MasterKeys::parse(&MasterKeys::generate()).expect("a key"));
        let store = Store::open(&settings, master_keys).await.expect("a store");
        ensure(&store, &first).await.expect("a new tenant");
        let revision = store.revision().await.expect("a revision");
        ensure(&store, &first).await.expect("nothing to do");
        assert_eq!(store.revision().await.expect("a revision"), revision, "a restart writes nothing");
        let hash = auth::hash(&first.publisher_key);
        let found = store.api_key_by_hash(&hash).await.expect("found").expect("the key");
        assert_eq!((found.name.as_str(), found.tenant.as_str()), ("apiKeys/dev-publisher", "tenants/demo"));
    }
}
