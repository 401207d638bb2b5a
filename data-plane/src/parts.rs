//! The tasks that a node is made of: if one of them ends before its time, or panics, the whole node does.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;

use crate::Error;

/// Named tasks. They are aborted when this is dropped.
#[derive(Default)]
pub(crate) struct Parts {
    tasks: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    /// Begins a part that can fail.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let task = self.tasks.spawn(async move { part.await.map_err(|error| error.to_string()) });
        self.names.insert(task.id(), name);
    }

    /// Begins a part that ends only when it is told to.
    pub fn spawn_endless(&mut self, name: &'static str, part: impl Future<Output: Send> + Send + 'static) {
        self.spawn(name, async move {
            part.await;
            Ok::<_, String>(())
        });
    }

    /// The first part that ends: while none was told to, that is an error.
    pub async fn ended(&mut self) -> Error {
        let Some(ended) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
        let (name, result) = self.named(ended);
        Error::Ended { name, detail: result.err().unwrap_or_else(|| "though nobody told it to".into()) }
    }

    /// Waits for all parts, which were told to end.
    pub async fn drained(mut self, limit: Duration) -> Result<(), Error> {
        let all = async {
            while let Some(ended) = self.tasks.join_next_with_id().await {
                let (name, result) = self.named(ended);
                result.map_err(|detail| Error::Ended { name, detail })?;
            }
            Ok(())
        };
        timeout(limit, all).await.unwrap_or(Err(Error::NotDrained(limit)))
    }

    fn named(&self, ended: Result<(Id, Result<(), String>), JoinError>) -> (&'static str, Result<(), String>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(error.to_string())),
        };
        (self.names.get(&id).copied().unwrap_or("a task"), result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_the_node() {
        let mut parts = Parts::default();
        parts.spawn_endless("the good one", std::future::pending::<()>());
        parts.spawn_endless("the bad one", async { panic!("a bug") });
        let error = parts.ended().await.to_string();
        assert!(error.starts_with("the bad one ended: ") && error.contains("panicked"), "{error}");
    }

    #[tokio::test]
    async fn a_part_that_just_ends_ends_the_node_too() {
        let mut parts = Parts::default();
        parts.spawn_endless("the lazy one", async {});
        assert_eq!(parts.ended().await.to_string(), "the lazy one ended: though nobody told it to");
    }

    #[tokio::test(start_paused = true)]
    async fn draining_has_a_limit() {
        let mut parts = Parts::default();
        parts.spawn_endless("the stuck one", std::future::pending::<()>());
        let limit = Duration::from_secs(25);
        assert!(matches!(parts.drained(limit).await, Err(Error::NotDrained(_))));
        assert!(Parts::default().drained(limit).await.is_ok());
    }
}
