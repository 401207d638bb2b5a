//! API keys, and what each role may do: one table, [`Rpc::rule`].

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hookwire_proto::config::Sealed;
use hookwire_proto::name;
use hookwire_proto::seal::MasterKeys;
use hookwire_proto::v1::{self, api_key::Role};
use ipnet::IpNet;
use prost::Message as _;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use Reach::{Any, Tenant, Unbound};
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
    UpdateSubscription,
    BatchCreateSubscriptions,
    BatchUpdateSubscriptions,
    CreateSecret,
    ListSecrets,
    DeleteSecret,
    GetSecret,
    RotateSecret,
    PromoteSecret,
    ListPublicKeys,
    PingSubscription,
    CreateApiKey,
    GetApiKey,
    ListApiKeys,
    DeleteApiKey,
    GetMessage,
    ListMessages,
    GetDelivery,
    ListDeliveries,
    GetAttempt,
    ListAttempts,
    GetDeadLetter,
    ListDeadLetters,
    UpdateTenant,
    UpdateEventType,
    UpdateApiKey,
    CreateTenantToken,
    GetAuditEntry,
    ListAuditEntries,
    GetNode,
    ListNodes,
    GetEgressAddresses,
    PauseSubscription,
    EnableSubscription,
    CreateReplay,
    GetReplay,
    ListReplays,
    PauseReplay,
    ResumeReplay,
    CancelReplay,
    WatchReplay,
}

/// Every scope that narrows what a key may do.
pub const SCOPES: &[&str] = &[
    "tenants.read",
    "tenants.write",
    "eventTypes.read",
    "eventTypes.write",
    "subscriptions.read",
    "subscriptions.write",
    "secrets.read",
    "secrets.write",
    "apiKeys.read",
    "apiKeys.write",
    "auditEntries.read",
    "nodes.read",
    "egress.read",
    "messages.read",
    // Deliveries, attempts and dead letters.
    "deliveries.read",
    "replays.read",
    "replays.write",
    // Of the data plane.
    "messages.publish",
];

/// Which keys of a role an RPC lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those bound to no tenant.
    Unbound,
    /// Those bound to no tenant, or to the one in the resource's name.
    Tenant,
    /// All. What one that is bound sees and makes is for the service: keys of its tenant, for example.
    Any,
}

/// Who may call an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Keys of these roles.
    pub roles: &'static [Role],
    /// Of those, these.
    pub reach: Reach,
    /// Of those, these that have no scopes or this one.
    pub scope: &'static str,
}

impl Rpc {
    /// Who may call it.
    pub const fn rule(self) -> Rule {
        let (roles, reach, scope): (&'static [Role], _, _) = match self {
            Self::CreateTenant | Self::DeleteTenant | Self::UpdateTenant => (&[Admin], Unbound, "tenants.write"),
            Self::ListTenants => (&[Admin], Unbound, "tenants.read"),
            Self::GetTenant => (&[Admin, TenantAdmin, Publisher, Viewer], Tenant, "tenants.read"),
            Self::CreateEventType | Self::UpdateEventType | Self::DeleteEventType => {
                (&[Admin, TenantAdmin], Tenant, "eventTypes.write")
            }
            Self::GetEventType | Self::ListEventTypes => {
                (&[Admin, TenantAdmin, Publisher, Viewer], Tenant, "eventTypes.read")
            }
            Self::CreateSubscription
            | Self::DeleteSubscription
            | Self::UpdateSubscription
            | Self::BatchCreateSubscriptions
            | Self::BatchUpdateSubscriptions
            | Self::PauseSubscription
            | Self::EnableSubscription
            | Self::PingSubscription => (&[Admin, TenantAdmin], Tenant, "subscriptions.write"),
            Self::CreateReplay | Self::PauseReplay | Self::ResumeReplay | Self::CancelReplay => {
                (&[Admin, TenantAdmin], Tenant, "replays.write")
            }
            Self::GetReplay | Self::ListReplays | Self::WatchReplay => {
                (&[Admin, TenantAdmin, Viewer], Tenant, "replays.read")
            }
            Self::GetSubscription | Self::ListSubscriptions => {
                (&[Admin, TenantAdmin, Viewer], Tenant, "subscriptions.read")
            }
            Self::GetMessage | Self::ListMessages => (&[Admin, TenantAdmin, Viewer], Tenant, "messages.read"),
            Self::GetDelivery
            | Self::ListDeliveries
            | Self::GetAttempt
            | Self::ListAttempts
            | Self::GetDeadLetter
            | Self::ListDeadLetters => (&[Admin, TenantAdmin, Viewer], Tenant, "deliveries.read"),
            // A viewer reads everything but secrets.
            Self::CreateSecret | Self::DeleteSecret | Self::RotateSecret | Self::PromoteSecret => {
                (&[Admin, TenantAdmin], Tenant, "secrets.write")
            }
            Self::GetSecret | Self::ListSecrets => (&[Admin, TenantAdmin], Tenant, "secrets.read"),
            Self::ListPublicKeys => (&[Admin, TenantAdmin, Publisher, Viewer], Tenant, "subscriptions.read"),
            Self::CreateApiKey | Self::UpdateApiKey | Self::DeleteApiKey => (&[Admin], Any, "apiKeys.write"),
            Self::GetApiKey | Self::ListApiKeys => (&[Admin], Any, "apiKeys.read"),
            Self::CreateTenantToken => (&[Admin], Tenant, "apiKeys.write"),
            Self::GetAuditEntry | Self::ListAuditEntries => (&[Admin], Any, "auditEntries.read"),
            Self::GetNode | Self::ListNodes => (&[Admin, Viewer], Unbound, "nodes.read"),
            Self::GetEgressAddresses => (&[Admin, TenantAdmin, Publisher, Viewer], Any, "egress.read"),
        };
        Rule { roles, reach, scope }
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
    /// Scopes that narrow its role; empty: none do.
    pub scopes: Vec<String>,
    /// Where it may call from; empty: everywhere.
    pub source_cidrs: Vec<IpNet>,
    /// The API key that this tenant token was minted with.
    pub minted_by: Option<String>,
}

/// The key may not do this; whether the resource exists is not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} may not do this: {why}")]
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
    /// It is bound to a tenant that has no such resource.
    NotOfTenant,
    /// Another scope is needed.
    Scope(&'static str),
    /// It is not taken from this address.
    Source(Option<IpAddr>),
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
            Self::NotOfTenant => write!(f, "it is bound to a tenant, which has none of this name"),
            Self::Scope(scope) => write!(f, "its scopes lack {scope}"),
            Self::Source(Some(source)) => write!(f, "it is not taken from {source}, which is not in its source_cidrs"),
            Self::Source(None) => write!(f, "it has source_cidrs, and where the call comes from is not known"),
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
        if !self.scopes.is_empty() && !self.scopes.iter().any(|scope| scope == rule.scope) {
            return Err(self.denied(Why::Scope(rule.scope)));
        }
        match (rule.reach, &self.tenant, tenant) {
            (_, None, _) | (Any, ..) | (Tenant, Some(_), None) => Ok(()),
            (Unbound, Some(_), _) => Err(self.denied(Why::Bound)),
            (Tenant, Some(own), Some(asked)) if own.to_string() == asked => Ok(()),
            (Tenant, Some(_), Some(_)) => Err(self.denied(Why::OtherTenant)),
        }
    }

    /// Whether it may call from this address.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_call_from(&self, source: Option<IpAddr>) -> Result<(), Denied> {
        let is_in = |source: &IpAddr| self.source_cidrs.iter().any(|cidr| cidr.contains(source));
        if self.source_cidrs.is_empty() || source.as_ref().is_some_and(is_in) {
            return Ok(());
        }
        Err(self.denied(Why::Source(source)))
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
        // What can't be read lets nobody in.
        let source_cidrs = key.source_cidrs.iter().map(|cidr| cidr.parse().unwrap_or_else(|_| nowhere())).collect();
        Self { role: key.role(), name: key.name, tenant, scopes: key.scopes, source_cidrs, minted_by: None }
    }
}

fn nowhere() -> IpNet {
    IpNet::from(IpAddr::from([0, 0, 0, 0]))
}

/// Whether a key's time is over.
pub fn is_expired(key: &v1::ApiKey, now: OffsetDateTime) -> bool {
    key.expire_time.as_ref().is_some_and(|expire_time| expire_time.seconds <= now.unix_timestamp())
}

/// A short-lived token for one tenant: stored nowhere, sealed under a master key, so that nobody else can make one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TenantToken {
    /// Id, for audit entries.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Id of the tenant.
    #[prost(string, tag = "2")]
    pub tenant: String,
    /// What it may do.
    #[prost(enumeration = "Role", tag = "3")]
    pub role: i32,
    /// Scopes that narrow that.
    #[prost(string, repeated, tag = "4")]
    pub scopes: Vec<String>,
    /// When it ends, in Unix seconds.
    #[prost(int64, tag = "5")]
    pub expire_time_s: i64,
    /// `apiKeys/{api_key}` that it was minted with.
    #[prost(string, tag = "6")]
    pub minted_by: String,
}

/// What a tenant token is sealed for.
const TOKEN_AAD: &str = "tenantTokens";
const TOKEN_PREFIX: &str = "hwt_";

impl TenantToken {
    /// The token as text.
    pub fn seal(&self, keys: &MasterKeys) -> Zeroizing<String> {
        let sealed = keys.seal(TOKEN_AAD, &self.encode_to_vec());
        Zeroizing::new(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(sealed.encode_to_vec())))
    }

    /// Reads a token: `None` for what is not one, such as an API key; `Some(None)` for one that was not made here, or under a master
    /// key that is here no more.
    pub fn open(text: &str, keys: &MasterKeys) -> Option<Option<Self>> {
        let sealed = text.strip_prefix(TOKEN_PREFIX)?;
        let opened = URL_SAFE_NO_PAD.decode(sealed).ok().and_then(|bytes| {
            let sealed = Sealed::decode(&*bytes).ok()?;
            Self::decode(&**keys.open(TOKEN_AAD, &sealed).ok()?).ok()
        });
        Some(opened)
    }

    /// Whether its time is not over.
    pub fn is_alive(&self, now: OffsetDateTime) -> bool {
        now.unix_timestamp() < self.expire_time_s
    }
}

impl From<TenantToken> for Caller {
    fn from(token: TenantToken) -> Self {
        Self {
            role: token.role(),
            name: format!("tenantTokens/{}", token.id),
            tenant: Some(name::Tenant { tenant: token.tenant }),
            scopes: token.scopes,
            source_cidrs: Vec::new(),
            minted_by: Some(token.minted_by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RPCS: &[Rpc] = &[
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
        Rpc::UpdateSubscription,
        Rpc::BatchCreateSubscriptions,
        Rpc::BatchUpdateSubscriptions,
        Rpc::CreateSecret,
        Rpc::ListSecrets,
        Rpc::DeleteSecret,
        Rpc::GetSecret,
        Rpc::RotateSecret,
        Rpc::PromoteSecret,
        Rpc::ListPublicKeys,
        Rpc::PingSubscription,
        Rpc::CreateApiKey,
        Rpc::GetApiKey,
        Rpc::ListApiKeys,
        Rpc::DeleteApiKey,
        Rpc::GetMessage,
        Rpc::ListMessages,
        Rpc::GetDelivery,
        Rpc::ListDeliveries,
        Rpc::GetAttempt,
        Rpc::ListAttempts,
        Rpc::GetDeadLetter,
        Rpc::ListDeadLetters,
        Rpc::UpdateTenant,
        Rpc::UpdateEventType,
        Rpc::UpdateApiKey,
        Rpc::CreateTenantToken,
        Rpc::GetAuditEntry,
        Rpc::ListAuditEntries,
        Rpc::GetNode,
        Rpc::ListNodes,
        Rpc::GetEgressAddresses,
        Rpc::PauseSubscription,
        Rpc::EnableSubscription,
        Rpc::CreateReplay,
        Rpc::GetReplay,
        Rpc::ListReplays,
        Rpc::PauseReplay,
        Rpc::ResumeReplay,
        Rpc::CancelReplay,
        Rpc::WatchReplay,
    ];

    /// What is allowed, written out once more: for each RPC the roles of an unbound key (`A`dmin, `T`enant admin,
    /// `P`ublisher, `V`iewer), of a key bound to the tenant, and of a key bound to another.
    fn expected(rpc: Rpc) -> [&'static str; 3] {
        match rpc {
            Rpc::CreateTenant | Rpc::ListTenants | Rpc::DeleteTenant | Rpc::UpdateTenant => ["A", "", ""],
            Rpc::GetTenant | Rpc::GetEventType | Rpc::ListEventTypes => ["ATPV", "ATPV", ""],
            Rpc::CreateEventType | Rpc::UpdateEventType | Rpc::DeleteEventType => ["AT", "AT", ""],
            Rpc::CreateSubscription | Rpc::UpdateSubscription | Rpc::DeleteSubscription => ["AT", "AT", ""],
            Rpc::BatchCreateSubscriptions | Rpc::BatchUpdateSubscriptions | Rpc::PingSubscription => ["AT", "AT", ""],
            Rpc::GetSubscription | Rpc::ListSubscriptions => ["ATV", "ATV", ""],
            Rpc::CreateSecret | Rpc::ListSecrets | Rpc::DeleteSecret => ["AT", "AT", ""],
            Rpc::GetMessage | Rpc::ListMessages | Rpc::GetDelivery | Rpc::ListDeliveries => ["ATV", "ATV", ""],
            Rpc::GetAttempt | Rpc::ListAttempts | Rpc::GetDeadLetter | Rpc::ListDeadLetters => ["ATV", "ATV", ""],
            Rpc::GetSecret | Rpc::RotateSecret | Rpc::PromoteSecret => ["AT", "AT", ""],
            Rpc::ListPublicKeys => ["ATPV", "ATPV", ""],
            // Which keys it may see and make is for the service.
            Rpc::CreateApiKey | Rpc::GetApiKey | Rpc::ListApiKeys | Rpc::UpdateApiKey | Rpc::DeleteApiKey => {
                ["A", "A", "A"]
            }
            Rpc::PauseSubscription | Rpc::EnableSubscription => ["AT", "AT", ""],
            Rpc::CreateReplay | Rpc::PauseReplay | Rpc::ResumeReplay | Rpc::CancelReplay => ["AT", "AT", ""],
            Rpc::GetReplay | Rpc::ListReplays | Rpc::WatchReplay => ["ATV", "ATV", ""],
            Rpc::CreateTenantToken => ["A", "A", ""],
            // Which entries it may see is for the service.
            Rpc::GetAuditEntry | Rpc::ListAuditEntries => ["A", "A", "A"],
            Rpc::GetNode | Rpc::ListNodes => ["AV", "", ""],
            // Where requests come from is no secret.
            Rpc::GetEgressAddresses => ["ATPV", "ATPV", "ATPV"],
        }
    }

    fn caller(role: Role, tenant: Option<name::Tenant>) -> Caller {
        let name = "apiKeys/k".into();
        Caller { name, role, tenant, scopes: Vec::new(), source_cidrs: Vec::new(), minted_by: None }
    }

    #[test]
    fn every_scope_is_known_and_of_some_use() {
        for rpc in RPCS {
            assert!(SCOPES.contains(&rpc.rule().scope), "{rpc:?}");
        }
        for scope in SCOPES {
            assert!(*scope == "messages.publish" || RPCS.iter().any(|rpc| rpc.rule().scope == *scope), "{scope}");
        }
    }

    #[test]
    fn a_key_is_taken_from_its_addresses_only() {
        let key = |cidrs: &[&str]| {
            let source_cidrs = cidrs.iter().map(ToString::to_string).collect();
            Caller::from(v1::ApiKey { source_cidrs, ..Default::default() })
        };
        let at = |address: &str| Some(address.parse().unwrap());
        assert!(key(&[]).may_call_from(None).is_ok());
        let some = key(&["203.0.113.0/24", "2001:db8::/32"]);
        assert!(some.may_call_from(at("203.0.113.9")).is_ok() && some.may_call_from(at("2001:db8::1")).is_ok());
        for refused in [at("203.0.114.1"), at("2001:db9::1"), at("0.0.0.0"), None] {
            assert!(some.may_call_from(refused).is_err(), "{refused:?}");
        }
        assert!(key(&["nonsense"]).may_call_from(at("203.0.113.9")).is_err());
    }

    #[test]
    fn a_tenant_token_is_what_was_sealed_and_nothing_else_is_one() {
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let token = TenantToken {
            id: "t1".into(),
            tenant: "acme".into(),
            role: Viewer.into(),
            scopes: vec!["attempts.read".into()],
            expire_time_s: 1_000,
            minted_by: "apiKeys/k".into(),
        };
        let text = token.seal(&keys);
        assert_eq!(TenantToken::open(&text, &keys), Some(Some(token.clone())));
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        assert!(token.is_alive(at(999)) && !token.is_alive(at(1_000)));
        let caller = Caller::from(token);
        assert!(caller.may(Rpc::GetSubscription, Some("tenants/acme")).is_err(), "narrowed by its scopes");
        assert_eq!(TenantToken::open("hwk_something", &keys), None);
        let other = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        assert_eq!(TenantToken::open(&text, &other), Some(None));
        let mut changed = text.as_bytes().to_vec();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert_eq!(TenantToken::open(&String::from_utf8(changed).unwrap(), &keys), Some(None));
        assert_eq!(TenantToken::open("hwt_", &keys), Some(None));
    }

    #[test]
    fn every_rpc_lets_in_the_roles_it_should_and_no_other() {
        let roles = [(Role::Unspecified, '-'), (Admin, 'A'), (TenantAdmin, 'T'), (Publisher, 'P'), (Viewer, 'V')];
        for &rpc in RPCS {
            for (bound, allowed) in [None, Some("own"), Some("other")].into_iter().zip(expected(rpc)) {
                for (role, letter) in roles {
                    let tenant = bound.map(|tenant| name::Tenant { tenant: tenant.into() });
                    let mut caller = caller(role, tenant);
                    let may = |caller: &Caller| caller.may(rpc, Some("tenants/own")).is_ok();
                    assert_eq!(may(&caller), allowed.contains(letter), "{rpc:?} {role:?} bound to {bound:?}");
                    // Its own scope takes nothing away, all the others take it.
                    caller.scopes = vec![rpc.rule().scope.into()];
                    assert_eq!(may(&caller), allowed.contains(letter), "{rpc:?} {role:?} with its scope");
                    caller.scopes =
                        SCOPES.iter().filter(|scope| **scope != rpc.rule().scope).map(ToString::to_string).collect();
                    assert!(!may(&caller), "{rpc:?} {role:?} without its scope");
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
