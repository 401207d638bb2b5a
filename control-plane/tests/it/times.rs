//! Times in the database: both compare them alike, and those of older versions are kept.

use std::time::Duration;

use hookwire_control_plane::store::{AuditFilter, Error};
use hookwire_proto::name;
use hookwire_proto::v1::Tenant;
use time::OffsetDateTime;

use crate::support::{Database, on_both};

on_both!(times_are_compared_to_the_microsecond, times_of_older_versions_are_kept);

fn tenant(number: usize) -> name::Tenant {
    name::Tenant { tenant: format!("t{number}") }
}

/// Many, so that some fractions end in zeros: as texts these compared wrongly.
async fn times_are_compared_to_the_microsecond(database: Database) {
    let store = database.store().await;
    for number in 0..60 {
        store.create_tenant(&tenant(number), &Tenant::default()).await.unwrap();
    }
    let entries = store.list_audit_entries(&AuditFilter::default(), "", 100).await.unwrap();
    assert_eq!(entries.len(), 60);
    for entry in &entries {
        let time = entry.create_time.unwrap();
        let time = OffsetDateTime::from_unix_timestamp(time.seconds).unwrap()
            + Duration::from_nanos(u64::try_from(time.nanos).unwrap());
        let named = async |from: Option<OffsetDateTime>, until: Option<OffsetDateTime>| {
            let filter = AuditFilter { resource: Some(entry.resource.clone()), from, until, ..AuditFilter::default() };
            store.list_audit_entries(&filter, "", 10).await.unwrap().len()
        };
        for micros in [1, 10, 1_000] {
            let later = time + Duration::from_micros(micros);
            assert_eq!(named(Some(time), Some(later)).await, 1, "from {time} until {later}");
            assert_eq!(named(Some(later), None).await, 0, "{time} is not from {later}");
        }
        assert_eq!(named(None, Some(time)).await, 0, "{time} is not before itself");
    }
}

const TABLES: [(&str, &[&str]); 7] = [
    ("tenants", &["create_time", "update_time"]),
    ("event_types", &["create_time", "update_time"]),
    ("subscriptions", &["create_time", "update_time"]),
    ("secrets", &["create_time", "expire_time"]),
    ("api_keys", &["create_time", "expire_time"]),
    ("audit_entries", &["create_time"]),
    ("answers", &["create_time"]),
];

const INDEXES: [(&str, &str, &str); 3] = [
    ("secrets_expire_time", "secrets", "expire_time"),
    ("audit_entries_time", "audit_entries", "create_time"),
    ("answers_time", "answers", "create_time"),
];

/// Puts a store's columns back to what they were before `m0007_times`, every time at `text`.
async fn as_before(database: &Database, text: &str) {
    let type_ = if database.is_sqlite() { "timestamp_with_timezone_text" } else { "timestamp with time zone" };
    let mut sql = String::from("DELETE FROM seaql_migrations WHERE version = 'm0007_times';");
    for (name, _, _) in INDEXES {
        sql += &format!("DROP INDEX {name};");
    }
    for (table, columns) in TABLES {
        for column in columns {
            sql += &format!("ALTER TABLE {table} DROP COLUMN {column};");
            let default = if *column == "expire_time" { "" } else { &format!("NOT NULL DEFAULT '{text}'") };
            sql += &format!("ALTER TABLE {table} ADD COLUMN {column} {type_} {default};");
        }
    }
    for (name, table, column) in INDEXES {
        sql += &format!("CREATE INDEX {name} ON {table} ({column});");
    }
    database.execute(&sql).await;
}

async fn times_of_older_versions_are_kept(database: Database) {
    let store = database.store().await;
    store.create_tenant(&tenant(0), &Tenant::default()).await.unwrap();
    store.close().await;
    for (text, seconds, nanos) in [
        ("2026-11-26T05:44:49Z", 1_795_671_889, 0),
        ("2026-11-26T05:44:49.12Z", 1_795_671_889, 120_000_000),
        ("2026-11-26T05:44:49.000001Z", 1_795_671_889, 1_000),
        ("2026-11-26T05:44:49.123456Z", 1_795_671_889, 123_456_000),
    ] {
        as_before(&database, text).await;
        let store = database.store().await;
        let kept = store.get_tenant(&tenant(0)).await.unwrap();
        let expected = Some(prost_types::Timestamp { seconds, nanos });
        assert_eq!((kept.create_time, kept.update_time), (expected, expected), "{text}");
        let entries = store.list_audit_entries(&AuditFilter::default(), "", 10).await.unwrap();
        assert_eq!(entries[0].create_time, expected, "{text}");
        let again = store.create_tenant(&tenant(0), &Tenant::default()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        store.close().await;
    }
}
