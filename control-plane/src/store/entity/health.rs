//! Which subscriptions fail, and notices.

pub mod failing {
    use sea_orm::entity::prelude::*;

    use crate::store::micros::UnixMicros;

    /// Of a subscription whose attempts have failed since a time, all of them; of others there is no row.
    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "failing")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub subscription: String,
        /// When the first of them began.
        pub since_time: UnixMicros,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

pub mod notice {
    use sea_orm::entity::prelude::*;

    use crate::store::micros::UnixMicros;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "notices")]
    pub struct Model {
        /// Empty: the operator alone is told.
        #[sea_orm(primary_key, auto_increment = false)]
        pub tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub event_type: String,
        /// What it is about: a resource name, or empty.
        #[sea_orm(primary_key, auto_increment = false)]
        pub subject: String,
        /// Of the message that tells it next.
        pub message_id: String,
        /// A JSON object: of the last that has happened.
        pub data: String,
        /// How often it has happened since it was told.
        pub count: i64,
        /// When it first has.
        pub first_time: UnixMicros,
        /// When it last has.
        pub last_time: UnixMicros,
        /// Not told before this.
        pub due_time: UnixMicros,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}
