//! API keys, and what each role may do: one table, [`Rpc::rule`].

use std::fmt;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hookwire_proto::name;
use hookwire_proto::v1::{self, api_key::Role};
use zeroize::Zeroizing;

use Reach::{Keys, Tenant, Unbound};
use Role::{Admin, Publisher, TenantAdmin, Viewer};

/// SHA-256 of a whole key: what is stored of it, and how it is found.
pub fn hash(key: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A new key: `hwk_`, the id of its resource, and 32 random bytes in base64url.
pub fn new_key(api_key: &name::ApiKey) -> Zeroizing<String> {
    let random = random::<32>();
    Zeroizing::new(format!("hwk_{}_{}", api_key.api_key, URL_SAFE_NO_PAD.encode(*random)))
}

/// Checks a key that an operator brings: long enough to be no guess, and fit for a header.
pub fn is_key(key: &str) -> bool {
    key.starts_with("hwk_") && (40..=256).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Random bytes from the crypto provider.
pub(crate) fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    rand::fill(&mut *bytes).expect("the operating system has randomness");
    bytes
}

/// Every RPC that asks for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the API")]
pub enum Rpc {
    CreateTenant,
    GetTenant,
    ListTenants,
    DeleteTenant,
    CreateEventType,
    GetEventType,
    ListEventTypes,
    DeleteEventType,
    CreateSubscription,
    GetSubscription,
    ListSubscriptions,
    DeleteSubscription,
    CreateSecret,
    ListSecrets,
    DeleteSecret,
    GetSecret,
    RotateSecret,
    PromoteSecret,
    ListPublicKeys,
    CreateApiKey,
    GetApiKey,
    ListApiKeys,
    DeleteApiKey,
}

/// Which keys of a role an RPC lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those bound to no tenant.
    Unbound,
    /// Those bound to no tenant, or to the one in the resource's name.
    Tenant,
    /// All; one that is bound sees and makes only keys of its tenant.
    Keys,
}

/// Who may call an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Keys of these roles.
    pub roles: &'static [Role],
    /// Of those, these.
    pub reach: Reach,
}

impl Rpc {
    /// Who may call it.
    pub const fn rule(self) -> Rule {
        let (roles, reach): (&'static [Role], _) = match self {
            Self::CreateTenant | Self::ListTenants | Self::DeleteTenant => (&[Admin], Unbound),
            Self::GetTenant => (&[Admin, TenantAdmin, Publisher, Viewer], Tenant),
            Self::CreateEventType | Self::DeleteEventType => (&[Admin, TenantAdmin], Tenant),
            Self::GetEventType | Self::ListEventTypes => (&[Admin, TenantAdmin, Publisher, Viewer], Tenant),
            Self::CreateSubscription | Self::DeleteSubscription => (&[Admin, TenantAdmin], Tenant),
            Self::GetSubscription | Self::ListSubscriptions => (&[Admin, TenantAdmin, Viewer], Tenant),
            // A viewer reads everything but secrets.
            Self::CreateSecret
            | Self::ListSecrets
            | Self::DeleteSecret
            | Self::GetSecret
            | Self::RotateSecret
            | Self::PromoteSecret => (&[Admin, TenantAdmin], Tenant),
            Self::ListPublicKeys => (&[Admin, TenantAdmin, Publisher, Viewer], Tenant),
            Self::CreateApiKey | Self::GetApiKey | Self::ListApiKeys | Self::DeleteApiKey => (&[Admin], Keys),
        };
        Rule { roles, reach }
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the key.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The tenant that it is bound to; `None` for every tenant.
    pub tenant: Option<name::Tenant>,
}

/// The key may not do this; whether the resource exists is not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("API key {key} may not do this: {why}")]
pub struct Denied {
    /// Name of the key.
    pub key: String,
    /// What it lacks.
    pub why: Why,
}

/// What a key lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Another role is needed.
    Role(&'static [Role]),
    /// A key that is bound to no tenant is needed.
    Bound,
    /// It is bound to another tenant.
    OtherTenant,
    /// It is bound to a tenant that has no such API key.
    NotOfTenant,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(roles) => {
                let roles: Vec<_> = roles.iter().map(|role| role.as_str_name()).collect();
                write!(f, "it needs a key with {}", roles.join(" or "))
            }
            Self::Bound => write!(f, "it needs a key that is bound to no tenant"),
            Self::OtherTenant => write!(f, "it is bound to another tenant"),
            Self::NotOfTenant => write!(f, "it is bound to a tenant, which has no such key"),
        }
    }
}

impl Caller {
    /// Whether it may call `rpc` for a resource of `tenant` (`tenants/{tenant}`). `None` where there is no tenant in the
    /// request or its name is malformed; such a name reaches nothing, so that validation may say what is wrong with it.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may(&self, rpc: Rpc, tenant: Option<&str>) -> Result<(), Denied> {
        let rule = rpc.rule();
        if !rule.roles.contains(&self.role) {
            return Err(self.denied(Why::Role(rule.roles)));
        }
        match (rule.reach, &self.tenant, tenant) {
            (_, None, _) | (Keys, ..) | (Tenant, Some(_), None) => Ok(()),
            (Unbound, Some(_), _) => Err(self.denied(Why::Bound)),
            (Tenant, Some(own), Some(asked)) if own.to_string() == asked => Ok(()),
            (Tenant, Some(_), Some(_)) => Err(self.denied(Why::OtherTenant)),
        }
    }

    /// A refusal for this key.
    pub fn denied(&self, why: Why) -> Denied {
        Denied { key: self.name.clone(), why }
    }
}

impl From<v1::ApiKey> for Caller {
    fn from(key: v1::ApiKey) -> Self {
        let tenant = (!key.tenant.is_empty()).then(|| {
            // Never to be taken for a key of every tenant, whatever is stored.
            name::Tenant::parse(&key.tenant).unwrap_or_else(|_| name::Tenant { tenant: String::new() })
        });
        Self { role: key.role(), name: key.name, tenant }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RPCS: [Rpc; 23] = [
        Rpc::CreateTenant,
        Rpc::GetTenant,
        Rpc::ListTenants,
        Rpc::DeleteTenant,
        Rpc::CreateEventType,
        Rpc::GetEventType,
        Rpc::ListEventTypes,
        Rpc::DeleteEventType,
        Rpc::CreateSubscription,
        Rpc::GetSubscription,
        Rpc::ListSubscriptions,
        Rpc::DeleteSubscription,
        Rpc::CreateSecret,
        Rpc::ListSecrets,
        Rpc::DeleteSecret,
        Rpc::GetSecret,
        Rpc::RotateSecret,
        Rpc::PromoteSecret,
        Rpc::ListPublicKeys,
        Rpc::CreateApiKey,
        Rpc::GetApiKey,
        Rpc::ListApiKeys,
        Rpc::DeleteApiKey,
    ];

    /// What is allowed, written out once more: for each RPC the roles of an unbound key (`A`dmin, `T`enant admin,
    /// `P`ublisher, `V`iewer), of a key bound to the tenant, and of a key bound to another.
    fn expected(rpc: Rpc) -> [&'static str; 3] {
        match rpc {
            Rpc::CreateTenant | Rpc::ListTenants | Rpc::DeleteTenant => ["A", "", ""],
            Rpc::GetTenant | Rpc::GetEventType | Rpc::ListEventTypes => ["ATPV", "ATPV", ""],
            Rpc::CreateEventType | Rpc::DeleteEventType => ["AT", "AT", ""],
            Rpc::CreateSubscription | Rpc::DeleteSubscription => ["AT", "AT", ""],
            Rpc::GetSubscription | Rpc::ListSubscriptions => ["ATV", "ATV", ""],
            Rpc::CreateSecret | Rpc::ListSecrets | Rpc::DeleteSecret => ["AT", "AT", ""],
            Rpc::GetSecret | Rpc::RotateSecret | Rpc::PromoteSecret => ["AT", "AT", ""],
            Rpc::ListPublicKeys => ["ATPV", "ATPV", ""],
            // Which keys it may see and make is for the service.
            Rpc::CreateApiKey | Rpc::GetApiKey | Rpc::ListApiKeys | Rpc::DeleteApiKey => ["A", "A", "A"],
        }
    }

    #[test]
    fn every_rpc_lets_in_the_roles_it_should_and_no_other() {
        let roles = [(Role::Unspecified, '-'), (Admin, 'A'), (TenantAdmin, 'T'), (Publisher, 'P'), (Viewer, 'V')];
        for rpc in RPCS {
            for (bound, allowed) in [None, Some("own"), Some("other")].into_iter().zip(expected(rpc)) {
                for (role, letter) in roles {
                    let tenant = bound.map(|tenant| name::Tenant { tenant: tenant.into() });
                    let caller = Caller { name: "apiKeys/k".into(), role, tenant };
                    let may = caller.may(rpc, Some("tenants/own")).is_ok();
                    assert_eq!(may, allowed.contains(letter), "{rpc:?} {role:?} bound to {bound:?}");
                }
            }
        }
    }

    #[test]
    fn every_rpc_of_the_api_has_a_rule() {
        use prost::Message as _;
        let set = prost_types::FileDescriptorSet::decode(hookwire_proto::DESCRIPTORS).unwrap();
        let services = set.file.iter().filter(|file| file.package() == "hookwire.v1").flat_map(|file| &file.service);
        let mut methods: Vec<_> = services
            .filter(|service| service.name() != "PublishService")
            .flat_map(|service| service.method.iter().map(|method| method.name().to_owned()))
            .collect();
        let mut rules: Vec<_> = RPCS.iter().map(|rpc| format!("{rpc:?}")).collect();
        methods.sort();
        rules.sort();
        assert_eq!(methods, rules);
    }

    #[test]
    fn new_keys_are_keys_and_differ() {
        let id = name::ApiKey { api_key: name::new_id('k') };
        let (one, two) = (new_key(&id), new_key(&id));
        assert!(is_key(&one) && one.starts_with(&format!("hwk_{}_", id.api_key)));
        assert_ne!(hash(&one), hash(&two));
        for key in ["", "hwk_short", &"x".repeat(64), &format!("hwk_{}\n", "x".repeat(40))] {
            assert!(!is_key(key), "{key:?}");
        }
    }

    #[test]
    fn a_key_whose_tenant_cannot_be_read_reaches_none() {
        let caller = Caller::from(v1::ApiKey { role: Admin.into(), tenant: "nonsense".into(), ..Default::default() });
        assert!(caller.may(Rpc::GetTenant, Some("tenants/a")).is_err());
        assert!(caller.may(Rpc::ListTenants, None).is_err());
    }
}
