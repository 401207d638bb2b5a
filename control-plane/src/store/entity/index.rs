//! The rows of the index. Each has a key of 16 bytes that begins with its time (48 bits, milliseconds since 1970): rows are in the
//! order of their keys, and on PostgreSQL a day's are in a partition of their own.

use sea_orm::entity::prelude::*;

pub mod message {
    use super::*;

    /// A message.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "messages")]
    pub struct Model {
        /// Its publish time, and 80 bits of a hash of its name.
        #[sea_orm(primary_key, auto_increment = false)]
        pub key: Uuid,
        /// Id of the tenant.
        pub tenant: String,
        /// Id of the message.
        pub message: String,
        /// The event type.
        pub event_type: String,
        /// When the message was published, in milliseconds since 1970.
        pub publish_time_ms: i64,
        /// Generation of the topic `messages` that it is in.
        pub generation: i32,
        /// Its partition there.
        pub partition: i32,
        /// Its offset there.
        pub offset: i64,
        /// `None`: not known.
        pub matched: Option<i32>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod delivery {
    use super::*;

    /// A delivery.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "deliveries")]
    pub struct Model {
        /// Its message's publish time, and the first 80 bits of its id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub key: Uuid,
        /// Id of the tenant.
        pub tenant: String,
        /// Id of the message.
        pub message: String,
        /// What the delivery's id holds.
        pub delivery: Uuid,
        /// Id of the subscription.
        pub subscription: String,
        /// The event type.
        pub event_type: String,
        /// Name of the replay, or empty.
        pub replay: String,
        /// When the message was published, in milliseconds since 1970.
        pub publish_time_ms: i64,
        /// How far it is: a row is only replaced by one that is further.
        pub step: i64,
        /// The number in `hookwire.v1.Delivery.State`.
        pub state: i32,
        /// The number in `hookwire.log.v1.DeadReason`.
        pub dead_reason: i32,
        /// How many were made.
        pub attempts: i32,
        /// Key of the last one, if there was any.
        pub last_attempt: Option<Uuid>,
        /// When that one began, in milliseconds since 1970; 0: never.
        pub last_attempt_time_ms: i64,
        /// HTTP status, or 0 without an answer.
        pub status_code: i32,
        /// The number in `hookwire.log.v1.AttemptError`.
        pub error: i32,
        /// When the next one is due, in milliseconds since 1970; 0: never.
        pub next_time_ms: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod attempt {
    use super::*;

    /// An attempt.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "attempts")]
    pub struct Model {
        /// The attempt's id, a UUID of version 7.
        #[sea_orm(primary_key, auto_increment = false)]
        pub key: Uuid,
        /// Id of the tenant.
        pub tenant: String,
        /// Id of the message.
        pub message: String,
        /// What the delivery's id holds.
        pub delivery: Uuid,
        /// Id of the subscription.
        pub subscription: String,
        /// The event type.
        pub event_type: String,
        /// Name of the replay, or empty.
        pub replay: String,
        /// From 1.
        pub number: i32,
        /// When it began, in milliseconds since 1970.
        pub time_ms: i64,
        /// How long it took, in microseconds.
        pub duration_us: i64,
        /// The number in `hookwire.log.v1.AttemptOutcome`.
        pub outcome: i32,
        /// HTTP status, or 0 without an answer.
        pub status_code: i32,
        /// The number in `hookwire.log.v1.AttemptError`.
        pub error: i32,
        /// An encoded `log.v1.AttemptResult` with detail, headers and body, if there are any.
        pub result: Option<Vec<u8>>,
        /// When the next one is due, in milliseconds since 1970; 0: never.
        pub next_time_ms: i64,
        /// Id of the node that made it.
        pub node: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod dead_letter {
    use super::*;

    /// A dead letter.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "dead_letters")]
    pub struct Model {
        /// The time of the death, and the first 80 bits of the delivery's id.
        #[sea_orm(primary_key, auto_increment = false)]
        pub key: Uuid,
        /// Id of the tenant.
        pub tenant: String,
        /// Id of the message.
        pub message: String,
        /// What the delivery's id holds.
        pub delivery: Uuid,
        /// Id of the subscription.
        pub subscription: String,
        /// The event type.
        pub event_type: String,
        /// Name of the replay, or empty.
        pub replay: String,
        /// When the message was published, in milliseconds since 1970.
        pub publish_time_ms: i64,
        /// When it died, in milliseconds since 1970.
        pub dead_time_ms: i64,
        /// The number in `hookwire.log.v1.DeadReason`.
        pub reason: i32,
        /// Key of the last one, if there was any.
        pub last_attempt: Option<Uuid>,
        /// When that one began, in milliseconds since 1970; 0: never.
        pub last_attempt_time_ms: i64,
        /// HTTP status, or 0 without an answer.
        pub status_code: i32,
        /// The number in `hookwire.log.v1.AttemptError`.
        pub error: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}
