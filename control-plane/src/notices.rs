//! Tells notices: rows that are due → messages of system events in the log, for the tenant's subscriptions that name them and for
//! the operator's.
//!
//! Every control plane does it. One that is killed between the log and the row tells a notice again, under the same message id, and
//! dispatch drops the repeat.

use std::time::Duration;

use hookwire_log::codec;
use hookwire_log::forward::now_ms;
use hookwire_proto::log::MessageRecord;
use hookwire_proto::name;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::health::Settings;
use crate::log::Log;
use crate::store::{self, Notice, Store};

/// How often it is looked for notices.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for secrets that are about to expire.
const SECRETS_EVERY: Duration = Duration::from_secs(30);
/// Notices, and secrets, of one look.
const LIMIT: u64 = 200;

/// What tells notices.
pub struct Notices {
    /// Where they are told.
    pub log: Log,
    /// Where they are.
    pub store: Store,
    /// Who is told of what.
    pub settings: Settings,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Log(#[from] hookwire_log::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Notices {
    /// Tells notices until `shutdown`. Goes on through whatever happens to log and store.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut secrets: Option<Instant> = None;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            if !self.settings.expiry_notice.is_zero() && secrets.is_none_or(|at| at.elapsed() >= SECRETS_EVERY) {
                secrets = Some(Instant::now());
                if let Err(error) = self.store.notice_expiring_secrets(self.settings.expiry_notice, LIMIT).await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "it can't be looked for secrets that are about to expire"
                    );
                }
            }
            if let Err(error) = self.tell_all().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "notices can't be told now");
            }
        }
    }

    async fn tell_all(&self) -> Result<(), Error> {
        let Ok(log) = self.log.get() else { return Ok(()) };
        for notice in self.store.due_notices(LIMIT).await? {
            let operator = Some(self.settings.operator_tenant.clone());
            let operator = operator.filter(|tenant| !tenant.is_empty() && notice.is_for_operator());
            let mut tenants: Vec<_> = notice.tenant().into_iter().chain(operator).collect();
            tenants.dedup();
            for tenant in tenants {
                self.tell(&*log, &notice, &tenant).await?;
            }
            self.store.told(&notice).await?;
        }
        Ok(())
    }

    /// Tells a tenant a notice, if a subscription there wants it.
    async fn tell(&self, log: &dyn hookwire_log::Log, notice: &Notice, tenant: &str) -> Result<(), Error> {
        let Ok(parsed) = name::Tenant::parse(tenant) else { return Ok(()) };
        if !self.store.names_system_event(&parsed, notice.event_type()).await? {
            return Ok(());
        }
        let record = message(notice, tenant, self.store.revision().await?);
        log.append(codec::message(log.layout(), &record)).await?;
        tracing::info!(tenant, event_type = notice.event_type(), message = record.message_id, "a notice is told");
        Ok(())
    }
}

fn message(notice: &Notice, tenant: &str, revision: i64) -> MessageRecord {
    MessageRecord {
        tenant: tenant.to_owned(),
        message_id: notice.message_id().to_owned(),
        // The row's: told again, it is a repeat.
        client_chosen_id: true,
        event_type: notice.event_type().to_owned(),
        payload: notice.payload().into(),
        content_type: "application/json".into(),
        publish_time_ms: now_ms(),
        revision,
        ..MessageRecord::default()
    }
}
