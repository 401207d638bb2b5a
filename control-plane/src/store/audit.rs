//! Audit entries: who changed what, from where, and what it was before and afterwards.
//!
//! An entry is written in the transaction of the change itself. It holds resources as the API shows them, so without secrets.

use std::time::Duration;

use hookwire_proto::{name, v1};
use prost::Message as _;
use sea_orm::{
    ColumnTrait as _, Condition, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _, Set,
};
use time::OffsetDateTime;

use super::entity::audit_entry::{ActiveModel, Column, Entity, Model};
use super::micros::UnixMicros;
use super::write::Write;
use super::{Error, Store, not_found};

/// Who asks for a write, as its audit entries say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `apiKeys/{api_key}`, `tenantTokens/{token}` or `system/{part}`.
    pub caller: String,
    /// The API key that a tenant token was minted with; empty otherwise.
    pub minted_by: String,
    /// Where the call came from; empty for the system.
    pub source_address: String,
    /// What was called, such as `CreateTenant`.
    pub method: String,
}

impl Actor {
    /// Hookwire itself: which part of it, and what it does.
    pub fn system(part: &str, method: &str) -> Self {
        Self {
            caller: format!("system/{part}"),
            minted_by: String::new(),
            source_address: String::new(),
            method: method.into(),
        }
    }
}

/// Which audit entries to list: all that are set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only of this tenant and what lies below it.
    pub tenant: Option<String>,
    /// Only of the resource with this name.
    pub resource: Option<String>,
    /// Only of this resource and what lies below it.
    pub below: Option<String>,
    /// Only by this caller.
    pub caller: Option<String>,
    /// Only of this method.
    pub method: Option<String>,
    /// Not before.
    pub from: Option<OffsetDateTime>,
    /// Before.
    pub until: Option<OffsetDateTime>,
}

/// One entry that is about to be written.
#[derive(Debug)]
pub(super) struct Entry {
    resource: String,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    detail: String,
}

impl Store {
    /// One audit entry; with `within`, only of that tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_audit_entry(
        &self,
        entry: &name::AuditEntry,
        within: Option<&name::Tenant>,
    ) -> Result<v1::AuditEntry, Error> {
        let row = Entity::find_by_id(entry.audit_entry.clone()).one(self.reader()).await?;
        row.filter(|row| within.is_none_or(|within| row.tenant.as_ref() == Some(&within.tenant)))
            .ok_or_else(|| not_found(entry))?
            .try_into()
    }

    /// At most `limit` audit entries that pass the filter, newest first, whose ids come before `before` (empty: all).
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn list_audit_entries(
        &self,
        filter: &AuditFilter,
        before: &str,
        limit: u64,
    ) -> Result<Vec<v1::AuditEntry>, Error> {
        let mut all = Condition::all();
        for (column, value) in [
            (Column::Tenant, &filter.tenant),
            (Column::Resource, &filter.resource),
            (Column::Caller, &filter.caller),
            (Column::Method, &filter.method),
        ] {
            all = all.add_option(value.as_ref().map(|value| column.eq(value)));
        }
        if let Some(name) = &filter.below {
            // Not LIKE: `_` is a letter of names. `0` comes after `/`.
            let children = Condition::all()
                .add(Column::Resource.gte(format!("{name}/")))
                .add(Column::Resource.lt(format!("{name}0")));
            all = all.add(Condition::any().add(Column::Resource.eq(name)).add(children));
        }
        all = all
            .add_option(filter.from.map(|from| Column::CreateTime.gte(UnixMicros::from(from))))
            .add_option(filter.until.map(|until| Column::CreateTime.lt(UnixMicros::from(until))))
            .add_option((!before.is_empty()).then(|| Column::Id.lt(before)));
        let rows = Entity::find().filter(all).order_by_desc(Column::Id).limit(limit).all(self.reader()).await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }
}

impl Write<'_> {
    /// What this write does to a resource: `None` before a creation and after a deletion. As the API shows it, without secrets.
    pub fn audit<M: prost::Name>(&mut self, resource: impl ToString, before: Option<&M>, after: Option<&M>) {
        self.audit_with(resource, before, after, String::new());
    }

    /// The same with something to say.
    pub fn audit_with<M: prost::Name>(
        &mut self,
        resource: impl ToString,
        before: Option<&M>,
        after: Option<&M>,
        detail: String,
    ) {
        let any =
            |message: &M| prost_types::Any { type_url: M::type_url(), value: message.encode_to_vec() }.encode_to_vec();
        let (before, after) = (before.map(any), after.map(any));
        self.entries.push(Entry { resource: resource.to_string(), before, after, detail });
    }

    /// Writes the entries, and now and then deletes those that are too old.
    pub(super) async fn record_audit(&mut self) -> Result<(), Error> {
        const OFTEN: i64 = 1_000;
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let entries = std::mem::take(&mut self.entries);
        let rows = entries.into_iter().enumerate().map(|(at, entry)| {
            let Actor { caller, minted_by, source_address, method } = (*self.store.actor).clone();
            let tenant = name::tenant_of(&entry.resource).map(|tenant| name::last_id(tenant).to_owned());
            ActiveModel {
                // In the order of the writes; a write changes 1,000 resources and what is below one tenant at the most.
                id: Set(format!("a{:012x}-{at:06x}", self.revision)),
                tenant: Set(tenant),
                create_time: Set(self.now),
                caller: Set(caller),
                minted_by: Set(minted_by),
                source_address: Set(source_address),
                method: Set(method),
                resource: Set(entry.resource),
                before: Set(entry.before),
                after: Set(entry.after),
                revision: Set(self.revision),
                detail: Set(entry.detail),
            }
        });
        // Both databases bound the parameters of a statement.
        let rows: Vec<_> = rows.collect();
        for rows in rows.chunks(500) {
            Entity::insert_many(rows.to_vec()).exec_without_returning(&self.transaction).await?;
        }
        if self.revision % OFTEN == 0 {
            let oldest = self.now - DAY * self.store.keep_audit_days;
            Entity::delete_many().filter(Column::CreateTime.lt(oldest)).exec(&self.transaction).await?;
        }
        Ok(())
    }
}

impl TryFrom<Model> for v1::AuditEntry {
    type Error = Error;

    fn try_from(row: Model) -> Result<Self, Error> {
        let name = name::AuditEntry { audit_entry: row.id }.to_string();
        let any = |bytes: Option<Vec<u8>>| {
            bytes
                .map(|bytes| prost_types::Any::decode(&*bytes))
                .transpose()
                .map_err(|error| Error::Corrupt { detail: format!("{name}: {error}") })
        };
        Ok(Self {
            before: any(row.before)?,
            after: any(row.after)?,
            create_time: Some(row.create_time.timestamp()),
            caller: row.caller,
            minted_by: row.minted_by,
            source_address: row.source_address,
            method: row.method,
            resource: row.resource,
            revision: row.revision,
            detail: row.detail,
            name,
        })
    }
}
