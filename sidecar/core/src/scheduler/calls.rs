//! The calls, one by one.

use outrigger_proto::scheduler::v1::job_target_metadata::Type as Target;
use outrigger_proto::scheduler::v1::{
    DeleteByMetadataRequest, DeleteByNamePrefixRequest, DeleteJobRequest, GetJobRequest, Job,
    ListJobsRequest, NamedJob, ScheduleJobRequest,
};
use tonic::Status;

use super::Scheduler;

impl Scheduler {
    /// Makes a job.
    ///
    /// # Errors
    /// The scheduler's status.
    pub async fn schedule(
        &self,
        name: &str,
        target: Target,
        job: Job,
        overwrite: bool,
    ) -> Result<(), Status> {
        let request = ScheduleJobRequest {
            name: name.to_owned(),
            job: Some(job),
            metadata: Some(self.metadata(target)),
            overwrite,
        };
        self.call(request, |mut client, request| async move {
            client.schedule_job(request).await
        })
        .await
        .map(|_| ())
    }

    /// Finds a job.
    ///
    /// # Errors
    /// The scheduler's status; NOT_FOUND if it is not there.
    pub async fn get(&self, name: &str, target: Target) -> Result<Job, Status> {
        let request = GetJobRequest {
            name: name.to_owned(),
            metadata: Some(self.metadata(target)),
        };
        self.call(request, |mut client, request| async move {
            client.get_job(request).await
        })
        .await
        .map(|found| found.job.unwrap_or_default())
    }

    /// Removes a job; an absent one is no failure.
    ///
    /// # Errors
    /// The scheduler's status.
    pub async fn delete(&self, name: &str, target: Target) -> Result<(), Status> {
        let request = DeleteJobRequest {
            name: name.to_owned(),
            metadata: Some(self.metadata(target)),
        };
        self.call(request, |mut client, request| async move {
            client.delete_job(request).await
        })
        .await
        .map(|_| ())
    }

    /// The jobs of a target; an actor without an id stands for all of its type.
    ///
    /// # Errors
    /// The scheduler's status.
    pub async fn list(&self, target: Target) -> Result<Vec<NamedJob>, Status> {
        let request = ListJobsRequest {
            metadata: Some(self.metadata(target)),
        };
        self.call(request, |mut client, request| async move {
            client.list_jobs(request).await
        })
        .await
        .map(|found| found.jobs)
    }

    /// Removes the jobs of a target whose names start like this.
    ///
    /// # Errors
    /// The scheduler's status.
    pub async fn delete_by_prefix(&self, name_prefix: &str, target: Target) -> Result<(), Status> {
        let request = DeleteByNamePrefixRequest {
            name_prefix: name_prefix.to_owned(),
            metadata: Some(self.metadata(target)),
        };
        self.call(request, |mut client, request| async move {
            client.delete_by_name_prefix(request).await
        })
        .await
        .map(|_| ())
    }

    /// Removes the jobs of a target, or of all whose id starts like the target's.
    ///
    /// # Errors
    /// The scheduler's status.
    pub async fn delete_by_metadata(&self, target: Target, id_prefix_match: bool) -> Result<(), Status> {
        let request = DeleteByMetadataRequest {
            metadata: Some(self.metadata(target)),
            id_prefix_match: id_prefix_match.then_some(true),
        };
        self.call(request, |mut client, request| async move {
            client.delete_by_metadata(request).await
        })
        .await
        .map(|_| ())
    }
}
