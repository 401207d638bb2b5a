//! `hookwire.v1.NodeService`

use hookwire_proto::name;
use hookwire_proto::v1::node_service_server::NodeService;
use hookwire_proto::v1::{GetNodeRequest, ListNodesRequest, ListNodesResponse, Node};
use tonic::{Request, Response, Status};

use super::Api;
use super::page::Page;
use super::validate::{Violations, field};
use crate::auth::Rpc;

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        let (call, request) = self.authorized(Rpc::GetNode, request, |_| "").await?;
        let name = field("name", name::Node::parse(&request.name))?;
        Ok(Response::new(call.store.get_node(&name).await?))
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let (call, request) = self.authorized(Rpc::ListNodes, request, |_| "").await?;
        let mut violations = Violations::default();
        let page = Page::read(&mut violations, "nodes", "", request.page_size, &request.page_token);
        violations.finish()?;
        let nodes = call.store.list_nodes(&page.after, page.limit()).await?;
        let (nodes, next_page_token) = page.finish(nodes, |last| name::last_id(&last.name).into());
        Ok(Response::new(ListNodesResponse { nodes, next_page_token }))
    }
}
