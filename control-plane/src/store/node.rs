//! Nodes, as the control planes that they are connected to write them down, and the addresses that their requests come from.
//!
//! No part of the configuration: none of this makes a revision or an audit entry.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use hookwire_proto::{name, system_event, v1};
use prost::Message as _;
use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict};
use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _, Set, TransactionTrait as _,
};
use time::OffsetDateTime;

use super::entity::{egress, node};
use super::micros::UnixMicros;
use super::notice::{self, NewNotice};
use super::{Error, Store, not_found};
use crate::push;

/// A node that nobody has heard of for longer is not connected. Longer than a few intervals of writing.
const ALIVE: Duration = Duration::from_secs(20);

/// The addresses that requests come from are others than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressChange {
    /// What they were, in order.
    pub before: Vec<String>,
    /// What they are, in order.
    pub after: Vec<String>,
    /// Whether these are all, now.
    pub complete: bool,
}

impl Store {
    /// Writes down that these nodes are connected now, when the newest revision is `newest`. Of two streams of one node, as when it has come
    /// back on another control plane, the later one counts.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like; so for the others here, but where they say so.
    pub async fn record_nodes(&self, nodes: &[push::Node], newest: i64) -> Result<(), Error> {
        let now = UnixMicros::now();
        let rows = nodes.iter().map(|node| node::ActiveModel {
            id: Set(node.id.clone()),
            connect_time: Set(OffsetDateTime::from(node.connected_since).into()),
            update_time: Set(now),
            node: Set(encode(node, newest)),
        });
        let rows: Vec<_> = rows.collect();
        let later = Expr::col(("excluded", node::Column::ConnectTime))
            .gte(Expr::col((node::Entity, node::Column::ConnectTime)));
        // Both databases bound the parameters of a statement.
        for rows in rows.chunks(500) {
            let upsert = OnConflict::column(node::Column::Id)
                .update_columns([node::Column::ConnectTime, node::Column::UpdateTime, node::Column::Node])
                .action_and_where(later.clone())
                .to_owned();
            node::Entity::insert_many(rows.to_vec())
                .on_conflict(upsert)
                .exec_without_returning(&self.connections.write)
                .await?;
        }
        Ok(())
    }

    /// Forgets nodes that nobody has heard of for so long.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn forget_nodes(&self, age: Duration) -> Result<(), Error> {
        let oldest = UnixMicros::now() - age;
        node::Entity::delete_many().filter(node::Column::UpdateTime.lt(oldest)).exec(&self.connections.write).await?;
        Ok(())
    }

    /// One node.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_node(&self, name: &name::Node) -> Result<v1::Node, Error> {
        let row = node::Entity::find_by_id(name.node.clone()).one(self.reader()).await?;
        decode(row.ok_or_else(|| not_found(name))?)
    }

    /// At most `limit` nodes by id, beginning after `after`.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn list_nodes(&self, after: &str, limit: u64) -> Result<Vec<v1::Node>, Error> {
        let rows = node::Entity::find()
            .filter(node::Column::Id.gt(after))
            .order_by_asc(node::Column::Id)
            .limit(limit)
            .all(self.reader())
            .await?;
        rows.into_iter().map(decode).collect()
    }

    /// The addresses that requests to recipients come from.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn egress_addresses(&self) -> Result<v1::EgressAddresses, Error> {
        let row = self.egress_row().await?;
        Ok(v1::EgressAddresses {
            addresses: split(&row.addresses),
            complete: row.complete,
            update_time: Some(row.update_time.timestamp()),
        })
    }

    /// Makes the addresses those of the nodes that are written down; the change, if this made one. Of several control planes that see the
    /// same change, one makes it.
    ///
    /// # Errors
    /// Only [`Error::Unavailable`] and the like.
    pub async fn settle_egress(&self) -> Result<Option<EgressChange>, Error> {
        let row = self.egress_row().await?;
        let nodes = node::Entity::find().all(self.reader()).await?.into_iter().map(decode);
        let (after, complete) = of_nodes(&nodes.collect::<Result<Vec<_>, _>>()?);
        let joined = after.join(" ");
        if (joined.as_str(), complete) == (row.addresses.as_str(), row.complete) {
            return Ok(None);
        }
        let change = EgressChange { before: split(&row.addresses), after, complete };
        let transaction = self.connections.write.begin().await?;
        let made = egress::Entity::update_many()
            .col_expr(egress::Column::Addresses, Expr::value(joined))
            .col_expr(egress::Column::Complete, Expr::value(complete))
            .col_expr(egress::Column::UpdateTime, Expr::value(UnixMicros::now()))
            // Nobody else has meanwhile.
            .filter(egress::Column::Addresses.eq(row.addresses))
            .filter(egress::Column::Complete.eq(row.complete))
            .exec(&transaction)
            .await?;
        if made.rows_affected == 0 || change.before == change.after {
            transaction.commit().await?;
            return Ok(None);
        }
        let data = serde_json::json!({
            "before": change.before,
            "after": change.after,
            "complete": change.complete,
        });
        // Every tenant that wants to know, and the operator.
        let tenants = notice::tenants_that_name(&transaction, system_event::EGRESS_CHANGED).await?;
        let notice = |tenant| NewNotice {
            tenant,
            event_type: system_event::EGRESS_CHANGED,
            subject: String::new(),
            data: data.clone(),
            count: 1,
        };
        let notices: Vec<_> = tenants.into_iter().chain([String::new()]).map(notice).collect();
        notice::add(&transaction, &notices, UnixMicros::now()).await?;
        transaction.commit().await?;
        Ok(Some(change))
    }

    async fn egress_row(&self) -> Result<egress::Model, Error> {
        let row = egress::Entity::find_by_id(1).one(self.reader()).await?;
        row.ok_or_else(|| Error::Corrupt { detail: "table `egress` has no row".into() })
    }
}

/// The addresses of all nodes that deliver, in order, and whether each of them says some.
fn of_nodes(nodes: &[v1::Node]) -> (Vec<String>, bool) {
    let delivering: Vec<_> =
        nodes.iter().filter(|node| node.roles().any(|role| role == v1::node::Role::Deliver)).collect();
    let addresses: BTreeSet<IpAddr> =
        delivering.iter().flat_map(|node| &node.egress_addresses).filter_map(|address| address.parse().ok()).collect();
    let complete = !delivering.is_empty() && delivering.iter().all(|node| !node.egress_addresses.is_empty());
    (addresses.iter().map(ToString::to_string).collect(), complete)
}

fn split(addresses: &str) -> Vec<String> {
    addresses.split_whitespace().map(str::to_owned).collect()
}

fn encode(node: &push::Node, newest: i64) -> Vec<u8> {
    let partitions = node.partitions.iter();
    v1::Node {
        version: node.version.clone(),
        identity: node.identity.clone(),
        roles: node.roles.iter().map(|role| *role as i32).collect(),
        applied_revision: node.revision,
        // A node may know of a write before this control plane does.
        revision_lag: Ord::max(newest - node.revision, 0),
        checksum: if node.checksum == 0 { String::new() } else { format!("{:016x}", node.checksum) },
        partitions: partitions
            .map(|owned| v1::node::Partitions { topic: owned.topic.clone(), numbers: owned.numbers.clone() })
            .collect(),
        egress_addresses: node.egress_addresses.clone(),
        ..v1::Node::default()
    }
    .encode_to_vec()
}

fn decode(row: node::Model) -> Result<v1::Node, Error> {
    let name = name::Node { node: row.id }.to_string();
    let alive = UnixMicros::now() < row.update_time + ALIVE;
    let state = if alive { v1::node::State::Connected } else { v1::node::State::Disconnected };
    let node = v1::Node::decode(&*row.node).map_err(|error| Error::Corrupt { detail: format!("{name}: {error}") })?;
    Ok(v1::Node {
        name,
        state: state.into(),
        connect_time: Some(row.connect_time.timestamp()),
        update_time: Some(row.update_time.timestamp()),
        ..node
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::node::Role;

    fn node(roles: &[Role], addresses: &[&str]) -> v1::Node {
        v1::Node {
            roles: roles.iter().map(|role| *role as i32).collect(),
            egress_addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            ..v1::Node::default()
        }
    }

    #[test]
    fn addresses_are_those_of_all_who_deliver_each_once_in_order() {
        let nodes = [
            node(&[Role::Deliver], &["203.0.113.10", "203.0.113.9"]),
            node(&[Role::Publish, Role::Deliver], &["203.0.113.9", "2001:db8::1"]),
            node(&[Role::Publish], &["198.51.100.1"]),
        ];
        let all = ["203.0.113.9", "203.0.113.10", "2001:db8::1"].map(str::to_owned).to_vec();
        assert_eq!(of_nodes(&nodes), (all, true));
    }

    #[test]
    fn one_who_says_none_makes_the_list_incomplete() {
        assert_eq!(of_nodes(&[]), (vec![], false));
        let nodes = [node(&[Role::Deliver], &["203.0.113.9"]), node(&[Role::Deliver], &[])];
        assert_eq!(of_nodes(&nodes), (vec!["203.0.113.9".to_owned()], false));
    }
}
