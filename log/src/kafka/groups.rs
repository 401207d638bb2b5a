//! What groups have committed, asked for from outside of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::config::Settings;
use super::context::{Key, Names, Voice};
use super::{closed, fetcher, unavailable};
use crate::Error;
use crate::offsets::Committed;

/// Clients that ask, one for each group and kept: a new one would first have to connect, and to find the group's coordinator. None
/// of them joins its group.
pub(super) struct Groups {
    settings: Settings,
    names: Arc<Names>,
    /// None when they are closed.
    clients: Mutex<Option<HashMap<String, Arc<BaseConsumer<Voice>>>>>,
}

impl Groups {
    pub(super) fn new(settings: Settings, names: Arc<Names>) -> Self {
        Self { settings, names, clients: Mutex::new(Some(HashMap::new())) }
    }

    /// What a group has committed of a partition. Blocks.
    pub(super) fn committed(&self, group: &str, key: Key) -> Result<Option<Committed>, Error> {
        let client = self.client(group)?;
        // What it has to say of itself does not pile up.
        drop(client.poll(Duration::ZERO));
        let asked = fetcher::list(&self.names, &[(key, None)]);
        let found =
            client.committed_offsets(asked, self.settings.delivery_timeout).map_err(|error| unavailable(&error))?;
        let Some(element) = found.find_partition(self.names.name(key.0), key.1) else { return Ok(None) };
        element.error().map_err(|error| unavailable(&error))?;
        let next = element.offset().to_raw().filter(|offset| *offset >= 0);
        Ok(next.map(|next| Committed::parse(next, element.metadata())))
    }

    fn client(&self, group: &str) -> Result<Arc<BaseConsumer<Voice>>, Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = clients.as_mut().ok_or_else(closed)?;
        if let Some(client) = clients.get(group) {
            return Ok(client.clone());
        }
        let config = self.settings.consumer(group)?;
        let client: BaseConsumer<Voice> =
            config.create_with_context(Voice::new("committed")).map_err(|error| unavailable(&error))?;
        let client = Arc::new(client);
        clients.insert(group.to_owned(), client.clone());
        Ok(client)
    }

    /// Ends those that nobody is asking. Blocks.
    pub(super) fn close(&self) {
        drop(self.clients.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
