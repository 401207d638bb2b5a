//! The rows. Private to the store, so that a query without a tenant can't be written elsewhere.
//!
//! Keys are ids as names have them; a row's name is made from its key. Times are whole microseconds since 1970 in both
//! databases: SQLite has no type for times, and texts of different lengths are not in the order of time.

use sea_orm::entity::prelude::*;

use super::micros::UnixMicros;

/// The one row about the store itself. Every write locks it first, so revisions become visible in their order.
pub mod store {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "store")]
    pub struct Model {
        /// Always 1.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        pub store_id: String,
        pub revision: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod tenant {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "tenants")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub display_name: String,
        pub create_time: UnixMicros,
        pub update_time: UnixMicros,
        pub revision: i64,
        pub validate_payloads: bool,
        /// An encoded `hookwire.v1.Tenant` that has its labels only.
        pub labels: Vec<u8>,
        /// Messages a second that may be published, if it has a quota of its own.
        pub publish_rate: Option<f64>,
        /// The burst of this quota.
        pub publish_burst: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod event_type {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "event_types")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub description: String,
        pub create_time: UnixMicros,
        pub update_time: UnixMicros,
        pub revision: i64,
        /// A JSON Schema, or empty.
        pub schema: String,
        pub deprecated: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod subscription {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "subscriptions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub display_name: String,
        pub url: String,
        /// Joined by spaces, of which none is in a type.
        pub event_types: String,
        pub shared_key_header: Option<String>,
        /// An encoded `config.v1.Sealed`.
        pub shared_key_value: Option<Vec<u8>>,
        pub max_concurrency: i32,
        /// The number in `hookwire.v1.Subscription.State`.
        pub state: i32,
        /// An encoded `hookwire.v1.Subscription.StateChange`, if there was one.
        pub state_change: Option<Vec<u8>>,
        /// The revision that made the state; 0: of its creation.
        pub state_revision: i64,
        /// The revision that enabled it last; 0: its creation.
        pub enabled_revision: i64,
        pub waiting_since: Option<UnixMicros>,
        pub description: String,
        /// A JSON object.
        pub labels: String,
        /// An encoded `config.v1.SubscriptionSettings`, if anything is set.
        pub settings: Option<Vec<u8>>,
        pub create_time: UnixMicros,
        pub update_time: UnixMicros,
        pub revision: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod secret {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "secrets")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub subscription: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// An encoded `config.v1.Sealed`.
        pub key: Vec<u8>,
        pub create_time: UnixMicros,
        /// Of its creation: the order of a subscription's secrets.
        pub revision: i64,
        /// The number in `hookwire.v1.Secret.Algorithm`.
        pub algorithm: i32,
        /// Of a pair.
        pub public_key: Option<Vec<u8>>,
        /// In whole milliseconds.
        pub expire_time: Option<UnixMicros>,
        /// The revision that promoted it to sign the token; 0: none.
        pub promoted: i64,
        /// The revision of its last change.
        pub changed: i64,
        /// The end that it was told about when it was near.
        pub told_expire_time: Option<UnixMicros>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod api_key {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "api_keys")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub display_name: String,
        /// The number in `hookwire.v1.ApiKey.Role`.
        pub role: i32,
        /// The tenant that it is bound to.
        pub tenant: Option<String>,
        /// SHA-256 of the whole key.
        pub hash: Vec<u8>,
        pub create_time: UnixMicros,
        pub revision: i64,
        pub expire_time: Option<UnixMicros>,
        /// Joined by spaces.
        pub source_cidrs: String,
        /// Joined by spaces.
        pub scopes: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// What each write changed, for nodes.
pub mod change {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "changes")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub revision: i64,
        /// An encoded `config.v1.ChangeSet`.
        pub change_set: Vec<u8>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Who changed what. Only ever added to, until it is too old.
pub mod audit_entry {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_entries")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        /// The tenant that the resource is, or lies below.
        pub tenant: Option<String>,
        pub create_time: UnixMicros,
        pub caller: String,
        pub minted_by: String,
        pub source_address: String,
        pub method: String,
        pub resource: String,
        /// An encoded `google.protobuf.Any`.
        pub before: Option<Vec<u8>>,
        /// An encoded `google.protobuf.Any`.
        pub after: Option<Vec<u8>>,
        pub revision: i64,
        pub detail: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// What requests with a `request_id` were answered, for a day.
pub mod answer {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "answers")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub caller: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub request_id: String,
        /// An encoded `config.v1.Sealed`: the request's fingerprint and the answer, which may show a secret.
        pub sealed: Vec<u8>,
        pub create_time: UnixMicros,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Data-plane nodes, as the control plane that each is connected to has seen it last.
pub mod node {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "nodes")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: String,
        pub connect_time: UnixMicros,
        pub update_time: UnixMicros,
        /// An encoded `hookwire.v1.Node`, but for its name, state and times.
        pub node: Vec<u8>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// The one row with the addresses that requests to recipients come from, as they were settled last.
pub mod egress {
    use super::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "egress")]
    pub struct Model {
        /// Always 1.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        /// Joined by spaces.
        pub addresses: String,
        pub complete: bool,
        pub update_time: UnixMicros,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod health;
pub mod index;
pub mod replay;
