//! Writing to PostgreSQL: one statement for each table, whatever the number of rows, in one transaction.

use sea_orm::sqlx;
use sea_orm::sqlx::PgConnection;

use super::{AttemptRow, DeadLetterRow, DeliveryRow, Error, Index, MessageRow, Rows, failed};

const MESSAGES: &str = r#"
INSERT INTO messages ("key", tenant, message, event_type, publish_time_ms, generation, "partition", "offset", matched)
SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int8[], $6::int4[], $7::int4[], $8::int8[], $9::int4[])
ON CONFLICT ("key") DO UPDATE SET matched = excluded.matched
WHERE messages.matched IS NULL AND excluded.matched IS NOT NULL"#;

const DELIVERIES: &str = r#"
INSERT INTO deliveries ("key", tenant, message, delivery, subscription, event_type, replay, publish_time_ms, step, state,
  dead_reason, attempts, last_attempt, last_attempt_time_ms, status_code, error, next_time_ms)
SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int8[], $9::int8[],
  $10::int4[], $11::int4[], $12::int4[], $13::uuid[], $14::int8[], $15::int4[], $16::int4[], $17::int8[])
ON CONFLICT ("key") DO UPDATE SET step = excluded.step, state = excluded.state, dead_reason = excluded.dead_reason,
  attempts = GREATEST(deliveries.attempts, excluded.attempts), last_attempt = excluded.last_attempt,
  last_attempt_time_ms = excluded.last_attempt_time_ms, status_code = excluded.status_code, error = excluded.error,
  next_time_ms = excluded.next_time_ms
WHERE excluded.step > deliveries.step"#;

const ATTEMPTS: &str = r#"
INSERT INTO attempts ("key", tenant, message, delivery, subscription, event_type, replay, number, time_ms, duration_us, outcome,
  status_code, error, result, next_time_ms, node)
SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int4[], $9::int8[],
  $10::int8[], $11::int4[], $12::int4[], $13::int4[], $14::bytea[], $15::int8[], $16::text[])
ON CONFLICT ("key") DO NOTHING"#;

const DEAD_LETTERS: &str = r#"
INSERT INTO dead_letters ("key", tenant, message, delivery, subscription, event_type, replay, publish_time_ms, dead_time_ms,
  reason, last_attempt, last_attempt_time_ms, status_code, error)
SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int8[], $9::int8[],
  $10::int4[], $11::uuid[], $12::int8[], $13::int4[], $14::int4[])
ON CONFLICT ("key") DO NOTHING"#;

/// The SQLSTATE of a row that no partition takes.
const CHECK_VIOLATION: &str = "23514";

impl Index {
    pub(super) async fn write_postgres(&self, rows: &Rows) -> Result<(), Error> {
        self.make_for(rows).await?;
        match self.insert(rows).await {
            // Somebody else has dropped a partition that was there.
            Err(error)
                if error.as_database_error().and_then(|error| error.code()).as_deref() == Some(CHECK_VIOLATION) =>
            {
                self.forget_days();
                self.make_for(rows).await?;
                self.insert(rows).await.map_err(failed)
            }
            written => written.map_err(failed),
        }
    }

    async fn insert(&self, rows: &Rows) -> Result<(), sqlx::Error> {
        let pool = self.store.connections.write.get_postgres_connection_pool();
        let mut transaction = pool.begin().await?;
        messages(&mut transaction, &rows.messages).await?;
        deliveries(&mut transaction, &rows.deliveries).await?;
        attempts(&mut transaction, &rows.attempts).await?;
        dead_letters(&mut transaction, &rows.dead_letters).await?;
        transaction.commit().await
    }
}

/// A column of rows.
fn all<R, T>(rows: &[R], field: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}

/// A column of texts.
fn texts<R>(rows: &[R], field: impl Fn(&R) -> &String) -> Vec<&str> {
    rows.iter().map(|row| field(row).as_str()).collect()
}

async fn messages(connection: &mut PgConnection, rows: &[MessageRow]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(MESSAGES)
        .bind(all(rows, |row| row.key))
        .bind(texts(rows, |row| &row.tenant))
        .bind(texts(rows, |row| &row.message))
        .bind(texts(rows, |row| &row.event_type))
        .bind(all(rows, |row| row.publish_time_ms))
        .bind(all(rows, |row| row.generation))
        .bind(all(rows, |row| row.partition))
        .bind(all(rows, |row| row.offset))
        .bind(all(rows, |row| row.matched))
        .execute(connection)
        .await
        .map(drop)
}

async fn deliveries(connection: &mut PgConnection, rows: &[DeliveryRow]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(DELIVERIES)
        .bind(all(rows, |row| row.key))
        .bind(texts(rows, |row| &row.tenant))
        .bind(texts(rows, |row| &row.message))
        .bind(all(rows, |row| row.delivery))
        .bind(texts(rows, |row| &row.subscription))
        .bind(texts(rows, |row| &row.event_type))
        .bind(texts(rows, |row| &row.replay))
        .bind(all(rows, |row| row.publish_time_ms))
        .bind(all(rows, |row| row.step))
        .bind(all(rows, |row| row.state))
        .bind(all(rows, |row| row.dead_reason))
        .bind(all(rows, |row| row.attempts))
        .bind(all(rows, |row| row.last_attempt))
        .bind(all(rows, |row| row.last_attempt_time_ms))
        .bind(all(rows, |row| row.status_code))
        .bind(all(rows, |row| row.error))
        .bind(all(rows, |row| row.next_time_ms))
        .execute(connection)
        .await
        .map(drop)
}

async fn attempts(connection: &mut PgConnection, rows: &[AttemptRow]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(ATTEMPTS)
        .bind(all(rows, |row| row.key))
        .bind(texts(rows, |row| &row.tenant))
        .bind(texts(rows, |row| &row.message))
        .bind(all(rows, |row| row.delivery))
        .bind(texts(rows, |row| &row.subscription))
        .bind(texts(rows, |row| &row.event_type))
        .bind(texts(rows, |row| &row.replay))
        .bind(all(rows, |row| row.number))
        .bind(all(rows, |row| row.time_ms))
        .bind(all(rows, |row| row.duration_us))
        .bind(all(rows, |row| row.outcome))
        .bind(all(rows, |row| row.status_code))
        .bind(all(rows, |row| row.error))
        .bind(rows.iter().map(|row| row.result.as_deref()).collect::<Vec<_>>())
        .bind(all(rows, |row| row.next_time_ms))
        .bind(texts(rows, |row| &row.node))
        .execute(connection)
        .await
        .map(drop)
}

async fn dead_letters(connection: &mut PgConnection, rows: &[DeadLetterRow]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(DEAD_LETTERS)
        .bind(all(rows, |row| row.key))
        .bind(texts(rows, |row| &row.tenant))
        .bind(texts(rows, |row| &row.message))
        .bind(all(rows, |row| row.delivery))
        .bind(texts(rows, |row| &row.subscription))
        .bind(texts(rows, |row| &row.event_type))
        .bind(texts(rows, |row| &row.replay))
        .bind(all(rows, |row| row.publish_time_ms))
        .bind(all(rows, |row| row.dead_time_ms))
        .bind(all(rows, |row| row.reason))
        .bind(all(rows, |row| row.last_attempt))
        .bind(all(rows, |row| row.last_attempt_time_ms))
        .bind(all(rows, |row| row.status_code))
        .bind(all(rows, |row| row.error))
        .execute(connection)
        .await
        .map(drop)
}
