//! What other actors may ask a `StateTracker`: the questions of a `StateReader` as messages.

use actix::{Context, Handler, Message, MessageResult};
use actix_cluster::WorkerId;
use serde_json::Value;

use super::{MetadataError, StateTracker, WorkerRecord};

/// [`StateReader::get`](super::StateReader::get).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetState(pub WorkerId);

impl Message for GetState {
    type Result = Option<WorkerRecord>;
}

/// [`StateReader::all`](super::StateReader::all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetAll;

impl Message for GetAll {
    type Result = Vec<WorkerRecord>;
}

/// [`StateReader::is_healthy`](super::StateReader::is_healthy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsHealthy(pub WorkerId);

impl Message for IsHealthy {
    type Result = bool;
}

/// [`StateReader::table`](super::StateReader::table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetTable;

impl Message for GetTable {
    type Result = String;
}

/// [`StateReader::set_metadata`](super::StateReader::set_metadata).
#[derive(Clone, Debug, PartialEq)]
pub struct SetMetadata {
    /// About whom.
    pub worker: WorkerId,
    /// Under which name.
    pub key: String,
    /// What; `Null` takes it away.
    pub value: Value,
}

impl Message for SetMetadata {
    type Result = Result<(), MetadataError>;
}

/// [`StateReader::forget`](super::StateReader::forget).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget(pub WorkerId);

impl Message for Forget {
    type Result = bool;
}

impl Handler<GetState> for StateTracker {
    type Result = MessageResult<GetState>;

    fn handle(&mut self, question: GetState, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.reader.get(question.0))
    }
}

impl Handler<GetAll> for StateTracker {
    type Result = MessageResult<GetAll>;

    fn handle(&mut self, _: GetAll, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.reader.all())
    }
}

impl Handler<IsHealthy> for StateTracker {
    type Result = bool;

    fn handle(&mut self, question: IsHealthy, _: &mut Context<Self>) -> Self::Result {
        self.reader.is_healthy(question.0)
    }
}

impl Handler<GetTable> for StateTracker {
    type Result = MessageResult<GetTable>;

    fn handle(&mut self, _: GetTable, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.reader.table())
    }
}

impl Handler<SetMetadata> for StateTracker {
    type Result = MessageResult<SetMetadata>;

    fn handle(&mut self, order: SetMetadata, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.reader.set_metadata(order.worker, &order.key, order.value))
    }
}

impl Handler<Forget> for StateTracker {
    type Result = bool;

    fn handle(&mut self, order: Forget, _: &mut Context<Self>) -> Self::Result {
        self.reader.forget(order.0)
    }
}
