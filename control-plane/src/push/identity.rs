//! Which nodes are let in, and what each may do: the identity of a node's certificate must be listed with what it says it does.

use hookwire_proto::config::NodeRole;
use hookwire_proto::role::Role;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use webpki::EndEntityCert;

use super::Error;

/// Nodes that are let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedNode {
    /// A DNS name or URI among the subject's alternative names of their certificates, such as `data-plane.example.com` or
    /// `spiffe://example.com/data-plane`. Nodes may share it.
    pub identity: String,
    /// What they may do: `publish`, `dispatch`, `deliver`. All of it by default.
    #[serde(default = "all")]
    pub roles: Vec<Role>,
}

fn all() -> Vec<Role> {
    Role::ALL.to_vec()
}

/// A node that is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The listed identity; empty where nodes need none.
    pub identity: String,
    /// What it does.
    pub roles: Vec<NodeRole>,
}

impl Admitted {
    /// Whether it gets secrets.
    pub fn gets_secrets(&self) -> bool {
        self.roles.contains(&NodeRole::Deliver)
    }
}

/// The list. The default has none and lets everybody in: for loopback, where there are no certificates.
#[derive(Debug, Clone, Default)]
pub struct Identities(Option<Vec<ListedNode>>);

impl Identities {
    /// Only these nodes are let in, by their certificates.
    pub fn listed(nodes: Vec<ListedNode>) -> Self {
        Self(Some(nodes))
    }

    /// Lets a node in that says it has these roles (empty: all), or not. `certificates` are what the connection was made with, the node's
    /// first; that they come from the right authority was checked then.
    ///
    /// # Errors
    /// [`Error::NotListed`], [`Error::NotAllowed`].
    pub fn admit(&self, certificates: Option<&[CertificateDer<'_>]>, roles: &[i32]) -> Result<Admitted, Error> {
        let roles: Vec<NodeRole> = if roles.is_empty() {
            Role::ALL.map(NodeRole::from).to_vec()
        } else {
            // A role that this version doesn't know comes out as unspecified, which nobody is listed with.
            roles.iter().map(|role| NodeRole::try_from(*role).unwrap_or_default()).collect()
        };
        let Some(listed) = &self.0 else { return Ok(Admitted { identity: String::new(), roles }) };
        let names = certificates.and_then(<[_]>::first).map(names).unwrap_or_default();
        let mut of_node = listed.iter().filter(|listed| names.contains(&listed.identity)).peekable();
        let first = of_node.peek().map(|listed| listed.identity.clone());
        let Some(first) = first else { return Err(Error::NotListed { names }) };
        let may = |listed: &&ListedNode| {
            roles.iter().all(|role| listed.roles.iter().any(|may| NodeRole::from(*may) == *role))
        };
        match of_node.find(may) {
            Some(listed) => Ok(Admitted { identity: listed.identity.clone(), roles }),
            None => Err(Error::NotAllowed { identity: first, roles }),
        }
    }
}

/// The DNS names and URIs of a certificate; none if it is none.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(dns: &[&str], uri: Option<&str>) -> Vec<CertificateDer<'static>> {
        let names: Vec<String> = dns.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        vec![parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()]
    }

    fn listed(identity: &str, roles: &[Role]) -> ListedNode {
        ListedNode { identity: identity.into(), roles: roles.to_vec() }
    }

    const DELIVER: i32 = NodeRole::Deliver as i32;
    const PUBLISH: i32 = NodeRole::Publish as i32;

    #[test]
    fn without_a_list_everybody_is_let_in_with_what_it_says() {
        let all = Identities::default().admit(None, &[]).unwrap();
        assert!(all.roles.len() == 3 && all.gets_secrets());
        let publisher = Identities::default().admit(None, &[PUBLISH]).unwrap();
        assert_eq!((publisher.roles.as_slice(), publisher.gets_secrets()), (&[NodeRole::Publish][..], false));
    }

    #[test]
    fn a_node_is_known_by_any_name_of_its_certificate() {
        let identities =
            Identities::listed(vec![listed("edge", &[Role::Publish]), listed("spiffe://hw/deliver", &[Role::Deliver])]);
        let edge = certificate(&["other.example", "edge"], None);
        assert_eq!(identities.admit(Some(&edge), &[PUBLISH]).unwrap().identity, "edge");
        let deliver = certificate(&[], Some("spiffe://hw/deliver"));
        assert!(identities.admit(Some(&deliver), &[DELIVER]).unwrap().gets_secrets());
    }

    #[test]
    fn who_is_not_listed_or_wants_more_is_refused() {
        let identities = Identities::listed(vec![listed("edge", &[Role::Publish])]);
        let stranger = certificate(&["stranger"], None);
        assert_eq!(
            identities.admit(Some(&stranger), &[PUBLISH]),
            Err(Error::NotListed { names: vec!["stranger".into()] })
        );
        assert_eq!(identities.admit(None, &[PUBLISH]), Err(Error::NotListed { names: vec![] }));
        let edge = certificate(&["edge"], None);
        // A wildcard is no name of a node's.
        let any = certificate(&["*"], None);
        assert!(matches!(identities.admit(Some(&any), &[PUBLISH]), Err(Error::NotListed { .. })));
        for roles in [&[PUBLISH, DELIVER][..], &[], &[77]] {
            assert!(matches!(identities.admit(Some(&edge), roles), Err(Error::NotAllowed { .. })), "{roles:?}");
        }
    }
}
