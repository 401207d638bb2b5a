//! `hookwire reseal`: moves every sealed value to the newest master key. Control planes may run meanwhile, and it may be ended
//! at any time and run again.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use hookwire_control_plane::store::Store;
use hookwire_proto::seal::MasterKeys;

use crate::process::{self, WrongSettings};
use crate::{cli, settings};

/// A pass that finds nothing to move is the last. Others may seal under an older key meanwhile, but not for ever.
const MAX_PASSES: u32 = 5;
/// How many broken values are named.
const MAX_NAMED: usize = 20;

/// Runs the subcommand.
pub async fn run(args: cli::Reseal) -> anyhow::Result<()> {
    let settings: settings::ControlPlane = process::configure(args.settings)?;
    let keys = settings::master_keys(&settings.secrets)?;
    settings.store.validate().map_err(WrongSettings::from)?;
    let store = Store::open(&settings.store, Arc::clone(&keys)).await.context("the store can't be opened")?;
    let done = reseal(&store, &keys, args.check, &mut io::stdout()).await;
    store.close().await;
    done
}

async fn reseal(store: &Store, keys: &MasterKeys, check: bool, out: &mut impl io::Write) -> anyhow::Result<()> {
    let counts = store.count_sealed().await?;
    tell(out, keys, &counts)?;
    refuse_missing(keys, &counts)?;
    if check {
        return Ok(());
    }
    for _ in 0..MAX_PASSES {
        // What a pass that moves nothing has seen was so from here on.
        let begun = store.revision().await?;
        let (mut moved, mut broken, mut place) = (0, Vec::new(), None);
        loop {
            let (done, next) = store.reseal(place.as_ref()).await?;
            moved += done.moved;
            broken.extend(done.broken);
            if next.is_none() {
                break;
            }
            place = next;
        }
        ensure!(
            broken.is_empty(),
            "{moved} values moved; {} do not open under the key that they name, so no node can use them: replace or delete {}{}",
            broken.len(),
            broken[..broken.len().min(MAX_NAMED)].join(", "),
            if broken.len() > MAX_NAMED { ", …" } else { "" },
        );
        if moved > 0 {
            writeln!(out, "{moved} values moved to {}", keys.newest())?;
            continue;
        }
        let forgotten = store.forget_changes(begun).await?;
        let revision = store.revision().await?;
        writeln!(
            out,
            "no value needs an older master key any more, nor does a change that nodes may still be told ({forgotten} were forgotten)"
        )?;
        writeln!(
            out,
            "before older keys are taken away: every node has applied revision {revision} or a newer one (ListNodes), and a minute has \
             passed, for which control planes keep a snapshot. Tenant tokens that are older end with their key; a day later there is none. \
             Restored backups, and copies of a node's configuration that are older, need them. If an older key is known to others, rotate the secrets themselves: what was sealed under it may be found in \
             backups and in free pages of the database"
        )?;
        return Ok(());
    }
    anyhow::bail!(
        "values are being sealed under an older key: start every control plane with {} as the first master key, then run this again",
        keys.newest()
    )
}

fn tell(out: &mut impl io::Write, keys: &MasterKeys, counts: &BTreeMap<String, u64>) -> io::Result<()> {
    writeln!(out, "sealed under {} (the newest): {}", keys.newest(), counts.get(keys.newest()).unwrap_or(&0))?;
    for (key_id, count) in counts.iter().filter(|(key_id, _)| *key_id != keys.newest()) {
        let missing = if keys.has(key_id) { "" } else { " (not among the master keys)" };
        writeln!(out, "sealed under {key_id}{missing}: {count}")?;
    }
    Ok(())
}

fn refuse_missing(keys: &MasterKeys, counts: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    let missing: Vec<_> = counts.iter().filter(|(key_id, _)| !keys.has(key_id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = missing.iter().map(|(key_id, count)| format!("{count} values need {key_id}")).collect();
    Err(WrongSettings::from(format!(
        "secrets.master_key_file: {}, which is not among the master keys; add it below the newest. Nothing was changed",
        told.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use hookwire_control_plane::signing_key::SigningKey;
    use hookwire_control_plane::store::{Changes, Fields, NewSubscription, StoreSettings};
    use hookwire_proto::name;
    use hookwire_proto::v1::secret::Algorithm;

    use super::*;

    async fn open(settings: &StoreSettings, keys: &str) -> (Store, Arc<MasterKeys>) {
        let keys = Arc::new(MasterKeys::parse(keys).expect("keys"));
        (Store::open(settings, keys.clone()).await.expect("a store"), keys)
    }

    async fn said(store: &Store, keys: &MasterKeys, check: bool) -> anyhow::Result<String> {
        let mut out = Vec::new();
        reseal(store, keys, check, &mut out).await?;
        Ok(String::from_utf8(out).expect("text"))
    }

    #[tokio::test]
    async fn says_what_it_found_what_it_did_and_what_may_be_done_next() {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}/store.db?mode=rwc", directory.path().display());
        let settings = StoreSettings { url, ..StoreSettings::default() };
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let (store, old_keys) = open(&settings, &old).await;
        store
            .create_tenant(&name::Tenant { tenant: "a".into() }, &hookwire_proto::v1::Tenant::default())
            .await
            .expect("a tenant");
        let fields = Fields { url: "https://example.com/".into(), event_types: vec!["*".into()], ..Fields::default() };
        let secret = SigningKey::generate(Algorithm::HmacSha256);
        let subscription = NewSubscription { fields, secret_id: "first".into(), secret };
        let name = name::Subscription { tenant: "a".into(), subscription: "s".into() };
        store.create_subscription(&name, subscription).await.expect("a subscription");

        let (without, only_new) = open(&settings, &new).await;
        let error = said(&without, &only_new, false).await.expect_err("a key is missing").to_string();
        assert!(
            error.contains(&format!("1 values need {}", old_keys.newest())) && error.contains("Nothing was changed"),
            "{error}"
        );

        let (both, keys) = open(&settings, &format!("{}\n{}", *new, *old)).await;
        let checked = said(&both, &keys, true).await.expect("counted");
        assert!(
            checked.contains("(the newest): 0") && checked.contains(&format!("under {}: 1", old_keys.newest())),
            "{checked}"
        );
        let done = said(&both, &keys, false).await.expect("done");
        assert!(
            done.contains("1 values moved") && done.contains("no value needs an older master key any more"),
            "{done}"
        );
        assert_eq!(
            both.changes_since(0, 10).await.expect("changes"),
            Changes::Gap,
            "nobody is told the old box any more"
        );
        let again = said(&both, &keys, false).await.expect("nothing to do");
        assert!(again.contains("(the newest): 1") && !again.contains("values moved"), "{again}");
    }
}
