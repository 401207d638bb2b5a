//! `hookwire.v1.EgressService`

use hookwire_proto::v1::egress_service_server::EgressService;
use hookwire_proto::v1::{EgressAddresses, GetEgressAddressesRequest};
use tonic::{Request, Response, Status};

use super::Api;
use crate::auth::Rpc;

#[tonic::async_trait]
impl EgressService for Api {
    async fn get_egress_addresses(
        &self,
        request: Request<GetEgressAddressesRequest>,
    ) -> Result<Response<EgressAddresses>, Status> {
        let (call, _) = self.authorized(Rpc::GetEgressAddresses, request, |_| "").await?;
        Ok(Response::new(call.store.egress_addresses().await?))
    }
}
