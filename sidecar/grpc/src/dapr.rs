//! The runtime service: each RPC goes to the module of its building block. RPCs that are not listed answer
//! UNIMPLEMENTED; `InvokeService` never gets here, see [`crate::invoke`].

use std::sync::Arc;

use outrigger_proto::runtime::v1 as wire;
use outrigger_proto::runtime::v1::dapr_server::Dapr;
use outrigger_sidecar_core::Sidecar;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{actor_stream, actors, bindings, configuration, jobs, lock, management, pubsub, secrets, state};

/// The service over one sidecar.
pub(crate) struct DaprApi {
    pub(crate) core: Arc<Sidecar>,
}

#[async_trait]
impl Dapr for DaprApi {
    async fn get_state(
        &self,
        request: Request<wire::GetStateRequest>,
    ) -> Result<Response<wire::GetStateResponse>, Status> {
        state::get(&self.core, request.into_inner()).await
    }

    async fn get_bulk_state(
        &self,
        request: Request<wire::GetBulkStateRequest>,
    ) -> Result<Response<wire::GetBulkStateResponse>, Status> {
        state::get_bulk(&self.core, request.into_inner()).await
    }

    async fn save_state(&self, request: Request<wire::SaveStateRequest>) -> Result<Response<()>, Status> {
        state::save(&self.core, request.into_inner()).await
    }

    async fn query_state_alpha1(
        &self,
        request: Request<wire::QueryStateRequest>,
    ) -> Result<Response<wire::QueryStateResponse>, Status> {
        state::query(&self.core, request.into_inner()).await
    }

    async fn delete_state(&self, request: Request<wire::DeleteStateRequest>) -> Result<Response<()>, Status> {
        state::delete(&self.core, request.into_inner()).await
    }

    async fn delete_bulk_state(
        &self,
        request: Request<wire::DeleteBulkStateRequest>,
    ) -> Result<Response<()>, Status> {
        state::delete_bulk(&self.core, request.into_inner()).await
    }

    async fn execute_state_transaction(
        &self,
        request: Request<wire::ExecuteStateTransactionRequest>,
    ) -> Result<Response<()>, Status> {
        state::transact(&self.core, request).await
    }

    async fn get_secret(
        &self,
        request: Request<wire::GetSecretRequest>,
    ) -> Result<Response<wire::GetSecretResponse>, Status> {
        secrets::get(&self.core, request.into_inner()).await
    }

    async fn get_bulk_secret(
        &self,
        request: Request<wire::GetBulkSecretRequest>,
    ) -> Result<Response<wire::GetBulkSecretResponse>, Status> {
        secrets::get_bulk(&self.core, request.into_inner()).await
    }

    async fn publish_event(
        &self,
        request: Request<wire::PublishEventRequest>,
    ) -> Result<Response<()>, Status> {
        pubsub::publish(&self.core, request).await
    }

    async fn bulk_publish_event(
        &self,
        request: Request<wire::BulkPublishRequest>,
    ) -> Result<Response<wire::BulkPublishResponse>, Status> {
        pubsub::publish_bulk(&self.core, request).await
    }

    async fn bulk_publish_event_alpha1(
        &self,
        request: Request<wire::BulkPublishRequest>,
    ) -> Result<Response<wire::BulkPublishResponse>, Status> {
        pubsub::publish_bulk(&self.core, request).await
    }

    async fn subscribe_topic_events_alpha1(
        &self,
        request: Request<Streaming<wire::SubscribeTopicEventsRequestAlpha1>>,
    ) -> Result<Response<pubsub::EventStream>, Status> {
        pubsub::subscribe(&self.core, request).await
    }

    async fn get_metadata(
        &self,
        _request: Request<wire::GetMetadataRequest>,
    ) -> Result<Response<wire::GetMetadataResponse>, Status> {
        Ok(Response::new(management::get(&self.core)))
    }

    async fn set_metadata(&self, request: Request<wire::SetMetadataRequest>) -> Result<Response<()>, Status> {
        management::set(&self.core, request.into_inner());
        Ok(Response::new(()))
    }

    async fn shutdown(&self, request: Request<wire::ShutdownRequest>) -> Result<Response<()>, Status> {
        management::shutdown(&self.core, request.metadata());
        Ok(Response::new(()))
    }

    async fn schedule_job(
        &self,
        request: Request<wire::ScheduleJobRequest>,
    ) -> Result<Response<wire::ScheduleJobResponse>, Status> {
        jobs::schedule(&self.core, request.into_inner()).await
    }

    async fn schedule_job_alpha1(
        &self,
        request: Request<wire::ScheduleJobRequest>,
    ) -> Result<Response<wire::ScheduleJobResponse>, Status> {
        jobs::schedule(&self.core, request.into_inner()).await
    }

    async fn get_job(
        &self,
        request: Request<wire::GetJobRequest>,
    ) -> Result<Response<wire::GetJobResponse>, Status> {
        jobs::get(&self.core, request.into_inner()).await
    }

    async fn get_job_alpha1(
        &self,
        request: Request<wire::GetJobRequest>,
    ) -> Result<Response<wire::GetJobResponse>, Status> {
        jobs::get(&self.core, request.into_inner()).await
    }

    async fn delete_job(
        &self,
        request: Request<wire::DeleteJobRequest>,
    ) -> Result<Response<wire::DeleteJobResponse>, Status> {
        jobs::delete(&self.core, request.into_inner()).await
    }

    async fn delete_job_alpha1(
        &self,
        request: Request<wire::DeleteJobRequest>,
    ) -> Result<Response<wire::DeleteJobResponse>, Status> {
        jobs::delete(&self.core, request.into_inner()).await
    }

    async fn delete_jobs_by_prefix(
        &self,
        request: Request<wire::DeleteJobsByPrefixRequest>,
    ) -> Result<Response<wire::DeleteJobsByPrefixResponse>, Status> {
        jobs::delete_by_prefix(&self.core, request.get_ref().name_prefix.as_deref()).await?;
        Ok(Response::new(wire::DeleteJobsByPrefixResponse {}))
    }

    async fn delete_jobs_by_prefix_alpha1(
        &self,
        request: Request<wire::DeleteJobsByPrefixRequestAlpha1>,
    ) -> Result<Response<wire::DeleteJobsByPrefixResponseAlpha1>, Status> {
        jobs::delete_by_prefix(&self.core, request.get_ref().name_prefix.as_deref()).await?;
        Ok(Response::new(wire::DeleteJobsByPrefixResponseAlpha1 {}))
    }

    async fn list_jobs(
        &self,
        _request: Request<wire::ListJobsRequest>,
    ) -> Result<Response<wire::ListJobsResponse>, Status> {
        let jobs = jobs::list(&self.core).await?;
        Ok(Response::new(wire::ListJobsResponse { jobs }))
    }

    async fn list_jobs_alpha1(
        &self,
        _request: Request<wire::ListJobsRequestAlpha1>,
    ) -> Result<Response<wire::ListJobsResponseAlpha1>, Status> {
        let jobs = jobs::list(&self.core).await?;
        Ok(Response::new(wire::ListJobsResponseAlpha1 { jobs }))
    }

    async fn invoke_binding(
        &self,
        request: Request<wire::InvokeBindingRequest>,
    ) -> Result<Response<wire::InvokeBindingResponse>, Status> {
        bindings::invoke(&self.core, request).await
    }

    async fn get_configuration(
        &self,
        request: Request<wire::GetConfigurationRequest>,
    ) -> Result<Response<wire::GetConfigurationResponse>, Status> {
        configuration::get(&self.core, request.into_inner()).await
    }

    async fn subscribe_configuration(
        &self,
        request: Request<wire::SubscribeConfigurationRequest>,
    ) -> Result<Response<configuration::UpdateStream>, Status> {
        configuration::subscribe(&self.core, request.into_inner()).await
    }

    async fn unsubscribe_configuration(
        &self,
        request: Request<wire::UnsubscribeConfigurationRequest>,
    ) -> Result<Response<wire::UnsubscribeConfigurationResponse>, Status> {
        configuration::unsubscribe(&self.core, request.into_inner()).await
    }

    async fn get_configuration_alpha1(
        &self,
        request: Request<wire::GetConfigurationRequest>,
    ) -> Result<Response<wire::GetConfigurationResponse>, Status> {
        configuration::get(&self.core, request.into_inner()).await
    }

    async fn subscribe_configuration_alpha1(
        &self,
        request: Request<wire::SubscribeConfigurationRequest>,
    ) -> Result<Response<configuration::UpdateStream>, Status> {
        configuration::subscribe(&self.core, request.into_inner()).await
    }

    async fn unsubscribe_configuration_alpha1(
        &self,
        request: Request<wire::UnsubscribeConfigurationRequest>,
    ) -> Result<Response<wire::UnsubscribeConfigurationResponse>, Status> {
        configuration::unsubscribe(&self.core, request.into_inner()).await
    }

    async fn try_lock_alpha1(
        &self,
        request: Request<wire::TryLockRequest>,
    ) -> Result<Response<wire::TryLockResponse>, Status> {
        lock::try_lock(&self.core, request.into_inner()).await
    }

    async fn unlock_alpha1(
        &self,
        request: Request<wire::UnlockRequest>,
    ) -> Result<Response<wire::UnlockResponse>, Status> {
        lock::unlock(&self.core, request.into_inner()).await
    }

    async fn invoke_actor(
        &self,
        request: Request<wire::InvokeActorRequest>,
    ) -> Result<Response<wire::InvokeActorResponse>, Status> {
        actors::invoke(&self.core, request).await
    }

    async fn get_actor_state(
        &self,
        request: Request<wire::GetActorStateRequest>,
    ) -> Result<Response<wire::GetActorStateResponse>, Status> {
        actors::get_state(&self.core, request.into_inner()).await
    }

    async fn execute_actor_state_transaction(
        &self,
        request: Request<wire::ExecuteActorStateTransactionRequest>,
    ) -> Result<Response<()>, Status> {
        actors::transact(&self.core, request.into_inner()).await
    }

    async fn register_actor_timer(
        &self,
        request: Request<wire::RegisterActorTimerRequest>,
    ) -> Result<Response<()>, Status> {
        actors::create_timer(&self.core, request.into_inner()).await
    }

    async fn unregister_actor_timer(
        &self,
        request: Request<wire::UnregisterActorTimerRequest>,
    ) -> Result<Response<()>, Status> {
        actors::delete_timer(&self.core, request.into_inner())
    }

    async fn register_actor_reminder(
        &self,
        request: Request<wire::RegisterActorReminderRequest>,
    ) -> Result<Response<()>, Status> {
        actors::create_reminder(&self.core, request.into_inner()).await
    }

    async fn unregister_actor_reminder(
        &self,
        request: Request<wire::UnregisterActorReminderRequest>,
    ) -> Result<Response<()>, Status> {
        actors::delete_reminder(&self.core, request.into_inner()).await
    }

    async fn unregister_actor_reminders_by_type(
        &self,
        request: Request<wire::UnregisterActorRemindersByTypeRequest>,
    ) -> Result<Response<wire::UnregisterActorRemindersByTypeResponse>, Status> {
        actors::delete_reminders(&self.core, request.into_inner()).await
    }

    async fn list_actor_reminders(
        &self,
        request: Request<wire::ListActorRemindersRequest>,
    ) -> Result<Response<wire::ListActorRemindersResponse>, Status> {
        actors::list_reminders(&self.core, request.into_inner()).await
    }

    async fn get_actor_reminder(
        &self,
        request: Request<wire::GetActorReminderRequest>,
    ) -> Result<Response<wire::GetActorReminderResponse>, Status> {
        actors::get_reminder(&self.core, request.into_inner()).await
    }

    async fn subscribe_actor_events_alpha1(
        &self,
        request: Request<Streaming<wire::SubscribeActorEventsRequestAlpha1>>,
    ) -> Result<Response<actor_stream::EventStream>, Status> {
        actor_stream::subscribe(&self.core, request).await
    }
}
