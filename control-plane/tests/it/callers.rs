//! Who is let in, asked of every RPC over real gRPC: keys that are narrowed by time, source and scope, and tenant tokens. What roles
//! and tenants may do by keys is in `services`.

use std::collections::BTreeSet;

use hookwire_control_plane::auth::{Caller, Rpc, SCOPES, TenantToken, new_key};
use hookwire_control_plane::store::NewApiKey;
use hookwire_proto::name;
use hookwire_proto::seal::MasterKeys;
use hookwire_proto::v1::api_key::Role;
use prost::Message as _;
use time::{Duration, OffsetDateTime};
use tonic::{Code, Response, Status};

use crate::services::{RPCS, call};
use crate::support::{Client, Database, Plane, on_both, refusal, refused, start};

on_both!(
    who_is_expired_or_forged_is_refused_by_every_rpc,
    a_key_is_taken_from_its_addresses_only_by_every_rpc,
    a_scope_opens_its_rpcs_and_no_other,
    a_tenant_token_may_what_its_role_may_for_its_tenant_alone,
);

/// The tables of these tests leave no RPC out.
#[test]
fn every_rpc_of_the_api_is_called() {
    let set = prost_types::FileDescriptorSet::decode(hookwire_proto::DESCRIPTORS).unwrap();
    let services = set.file.iter().filter(|file| file.package() == "hookwire.v1").flat_map(|file| &file.service);
    let methods: BTreeSet<_> = services
        .filter(|service| service.name() != "PublishService")
        .flat_map(|service| service.method.iter().map(|method| method.name().to_owned()))
        .collect();
    assert_eq!(RPCS.iter().map(|rpc| format!("{rpc:?}")).collect::<BTreeSet<_>>(), methods);
}

async fn started(database: &Database) -> (Plane, Client) {
    let plane = start(database.control_plane()).await;
    let mut admin = plane.admin().await;
    for tenant in ["own", "other"] {
        admin.create_tenant(tenant).await;
    }
    (plane, admin)
}

/// A key that may do everything; its text is to be made.
fn everything() -> NewApiKey<'static> {
    NewApiKey::unlimited("", Role::Admin, None, "")
}

/// A client with such a key.
async fn with(plane: &Plane, new: NewApiKey<'_>) -> Client {
    let name = name::ApiKey { api_key: name::new_id('k') };
    let key = new_key(&name);
    plane.store.create_api_key(&name, NewApiKey { key: &key, ..new }).await.unwrap();
    plane.client(&key).await
}

fn is_denied(answer: &Result<(), Status>) -> bool {
    let denied = answer.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied);
    if denied {
        let answer = answer.clone().map(Response::new);
        assert_eq!(refusal(answer), refused(Code::PermissionDenied, "PERMISSION_DENIED"));
    }
    denied
}

async fn every_rpc_refuses(client: &mut Client, code: Code, reason: &str) {
    for rpc in RPCS {
        let answer = call(rpc, client, "own").await.map(Response::new);
        assert_eq!(refusal(answer), refused(code, reason), "{rpc:?}");
    }
}

async fn who_is_expired_or_forged_is_refused_by_every_rpc(database: Database) {
    let (plane, mut admin) = started(&database).await;
    let now = OffsetDateTime::now_utc();
    let mut expired = with(&plane, NewApiKey { expire_time: Some(now - Duration::SECOND), ..everything() }).await;
    every_rpc_refuses(&mut expired, Code::Unauthenticated, "API_KEY_EXPIRED").await;

    let minter = admin.create_api_key(Role::Admin, "").await;
    let token = TenantToken {
        id: "t1".into(),
        tenant: "own".into(),
        role: Role::TenantAdmin.into(),
        scopes: Vec::new(),
        expire_time_s: now.unix_timestamp(),
        minted_by: minter.name,
    };
    let mut old = plane.client(&token.seal(&database.keys())).await;
    every_rpc_refuses(&mut old, Code::Unauthenticated, "API_KEY_EXPIRED").await;

    let alive = TenantToken { expire_time_s: now.unix_timestamp() + 600, ..token };
    let mut real = plane.client(&alive.seal(&database.keys())).await;
    call(Rpc::GetTenant, &mut real, "own").await.unwrap();
    // Who has no master key makes none, and one ends with its key, whoever sealed it.
    let others = MasterKeys::parse(&MasterKeys::generate()).unwrap();
    let mut forged = plane.client(&alive.seal(&others)).await;
    assert_eq!(refusal(call(Rpc::GetTenant, &mut forged, "own").await.map(Response::new)).0, Code::Unauthenticated);
    for rpc in RPCS {
        let answer = call(rpc, &mut forged, "own").await;
        assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated, "{rpc:?}");
    }
    let orphan = TenantToken { minted_by: "apiKeys/none".into(), ..alive };
    let mut orphan = plane.client(&orphan.seal(&database.keys())).await;
    every_rpc_refuses(&mut orphan, Code::Unauthenticated, "API_KEY_INVALID").await;
}

async fn a_key_is_taken_from_its_addresses_only_by_every_rpc(database: Database) {
    let (plane, _) = started(&database).await;
    let elsewhere = ["192.0.2.0/24".to_owned(), "2001:db8::/32".to_owned()];
    let mut client = with(&plane, NewApiKey { source_cidrs: &elsewhere, ..everything() }).await;
    every_rpc_refuses(&mut client, Code::PermissionDenied, "PERMISSION_DENIED").await;
    let here = ["192.0.2.0/24".to_owned(), "127.0.0.1/32".to_owned()];
    let mut client = with(&plane, NewApiKey { source_cidrs: &here, ..everything() }).await;
    for rpc in RPCS {
        let answer = call(rpc, &mut client, "other").await;
        assert!(!is_denied(&answer), "{rpc:?}: {answer:?}");
    }
}

async fn a_scope_opens_its_rpcs_and_no_other(database: Database) {
    let (plane, _) = started(&database).await;
    for scope in SCOPES {
        let scopes = [(*scope).to_owned()];
        let mut client = with(&plane, NewApiKey { scopes: &scopes, ..everything() }).await;
        for rpc in RPCS {
            let answer = call(rpc, &mut client, "own").await;
            assert_eq!(is_denied(&answer), rpc.rule().scope != *scope, "{rpc:?} with {scope}: {answer:?}");
        }
    }
}

async fn a_tenant_token_may_what_its_role_may_for_its_tenant_alone(database: Database) {
    let (plane, mut admin) = started(&database).await;
    let minter = admin.create_api_key(Role::Admin, "").await;
    let scoped = vec!["subscriptions.read".to_owned()];
    for (role, scopes) in [(Role::TenantAdmin, Vec::new()), (Role::Viewer, Vec::new()), (Role::TenantAdmin, scoped)] {
        let token = TenantToken {
            id: name::new_id('t'),
            tenant: "own".into(),
            role: role.into(),
            scopes,
            expire_time_s: OffsetDateTime::now_utc().unix_timestamp() + 600,
            minted_by: minter.name.clone(),
        };
        let mut client = plane.client(&token.seal(&database.keys())).await;
        let caller = Caller::from(token);
        let mut allowed = BTreeSet::new();
        for rpc in RPCS {
            for tenant in ["own", "other", "none"] {
                let answer = call(rpc, &mut client, tenant).await;
                let may = caller.may(rpc, Some(&format!("tenants/{tenant}"))).is_ok();
                assert_eq!(is_denied(&answer), !may, "{rpc:?} by {caller:?} for {tenant}: {answer:?}");
                // Where requests come from is of no tenant, and no secret.
                assert!(tenant == "own" || !may || rpc == Rpc::GetEgressAddresses, "{rpc:?} reaches {tenant}");
                if may {
                    allowed.insert(format!("{rpc:?}"));
                }
            }
        }
        // Neither keys nor tokens nor tenants come of a token, and neither an audit entry nor a node is shown.
        let never =
            ["ApiKey", "TenantToken", "Audit", "Node", "CreateTenant", "DeleteTenant", "UpdateTenant", "ListTenants"];
        let wrong = allowed.iter().find(|rpc| never.iter().any(|part| rpc.contains(part)));
        assert!(wrong.is_none() && allowed.contains("GetSubscription"), "{allowed:?}");
        assert_eq!(allowed.contains("RotateSecret"), role == Role::TenantAdmin && caller.scopes.is_empty());
    }
}
