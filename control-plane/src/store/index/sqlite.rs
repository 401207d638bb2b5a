//! Writing to SQLite: one transaction, some hundred rows a statement.

use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ActiveModelTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, SqliteTransactionMode};
use sea_orm::{TransactionOptions, TransactionTrait as _};

use super::super::entity::index::{attempt, dead_letter, delivery, message};
use super::{Error, Index, Rows};

/// Rows of a statement: far below SQLite's limit of 32,766 values.
const CHUNK: usize = 500;

impl Index {
    pub(super) async fn write_sqlite(&self, rows: Rows) -> Result<(), Error> {
        use delivery::Column as Delivery;
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.store.connections.write.begin_with_options(options).await?;
        let completed = OnConflict::column(message::Column::Key)
            .update_column(message::Column::Matched)
            .action_and_where(Expr::cust("messages.matched IS NULL AND excluded.matched IS NOT NULL"))
            .to_owned();
        insert::<message::Entity, _>(&transaction, rows.messages, completed).await?;
        let further = OnConflict::column(Delivery::Key)
            .update_columns([
                Delivery::Step,
                Delivery::State,
                Delivery::DeadReason,
                Delivery::LastAttempt,
                Delivery::LastAttemptTimeMs,
                Delivery::StatusCode,
                Delivery::Error,
                Delivery::NextTimeMs,
            ])
            .value(Delivery::Attempts, Expr::cust("MAX(deliveries.attempts, excluded.attempts)"))
            .action_and_where(Expr::cust("excluded.step > deliveries.step"))
            .to_owned();
        insert::<delivery::Entity, _>(&transaction, rows.deliveries, further).await?;
        let known = |column| OnConflict::column(column).do_nothing().to_owned();
        insert::<attempt::Entity, _>(&transaction, rows.attempts, known(attempt::Column::Key)).await?;
        let known = |column| OnConflict::column(column).do_nothing().to_owned();
        insert::<dead_letter::Entity, _>(&transaction, rows.dead_letters, known(dead_letter::Column::Key)).await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn insert<E, M>(transaction: &DatabaseTransaction, rows: Vec<M>, on_conflict: OnConflict) -> Result<(), DbErr>
where
    E: EntityTrait<Model = M>,
    M: IntoActiveModel<E::ActiveModel>,
    E::ActiveModel: ActiveModelTrait<Entity = E> + Send,
{
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let chunk = rows.by_ref().take(CHUNK).map(IntoActiveModel::into_active_model);
        E::insert_many(chunk).on_conflict(on_conflict.clone()).exec_without_returning(transaction).await?;
    }
    Ok(())
}
