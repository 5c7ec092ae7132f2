//! `Autoscaler`: more workers when they are busy, fewer when they are not.
//!
//! Four parts: the limits (`config`), what is known (`gather`, over the signals), the decision without effects (`decide`),
//! and here the actor, which looks every few seconds, decides, tells and orders. Not here: how a number of workers is
//! brought about.

mod config;
mod decide;
mod gather;

use std::num::NonZero;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, ContextFutureSpawner, Handler, WrapFuture};
use actix_cluster::{
    Announcement, ClusterBuilder, ClusterEvent, ClusterHandle, CommandError, CustomEvent, EventFilter, EventKind, Kind,
    Kinds, SubscribeOptions,
};

use crate::signals::LoadSignal;
pub use config::{AutoscaleConfig, AutoscaleConfigError};
use decide::Decider;
pub use decide::{ScaleDecision, ScaleReason};
use gather::Sources;

/// Keeps as many workers as the load asks for, between a minimum and a maximum.
///
/// Each decision that changes something, or is made for another reason than the one before, is published as an event
/// `decision` of the source `autoscaler` whose data is a [`ScaleDecision`], with everything it was made of. It changes
/// nothing without a fresh load, while workers are starting, stopping or being replaced, or while a slot has failed.
///
/// ```no_run
/// use actix_cluster::{Cluster, Worker};
/// use actix_cluster_actors::{AutoscaleConfig, Autoscaler};
///
/// fn main() -> std::process::ExitCode {
///     let scaler = Autoscaler::new(AutoscaleConfig::new().min(2).max(8)).expect("the limits agree");
///     let cluster = Cluster::builder().workers(2).worker(|worker: Worker| async move { worker.shutdown().started().await });
///     scaler.attach(cluster).main()
/// }
/// ```
#[derive(Debug)]
pub struct Autoscaler {
    config: AutoscaleConfig,
    decider: Decider,
    sources: Sources,
    cluster: Option<ClusterHandle>,
    /// What was told last: the numbers and the reason.
    told: Option<(u32, u32, ScaleReason)>,
    /// An order that is not answered yet.
    is_ordering: bool,
}

impl Autoscaler {
    /// An autoscaler with these limits.
    ///
    /// # Errors
    /// [`AutoscaleConfigError`] if they contradict each other.
    pub fn new(config: AutoscaleConfig) -> Result<Self, AutoscaleConfigError> {
        config.validate()?;
        // Counts the affinity and, in versions 1 and 2 of cgroups, the quota. Where it cannot be known, one is sure.
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            decider: Decider::new(config.clone(), u32::try_from(processors).unwrap_or(u32::MAX)),
            config,
            sources: Sources::default(),
            cluster: None,
            told: None,
            is_ordering: false,
        })
    }

    /// Adds it to a cluster, in the master, on a thread of its own.
    pub fn attach(self, cluster: ClusterBuilder) -> ClusterBuilder {
        cluster.subscribe_with(self.options(), |cluster| self.watch(cluster))
    }

    /// Starts it on this thread. It must be subscribed by the caller, with [`options`](Self::options), if it is to hear
    /// messages: [`attach`](Self::attach) does all of this.
    #[must_use = "it hears what workers say by what it is subscribed to"]
    pub fn watch(mut self, cluster: ClusterHandle) -> Addr<Self> {
        self.cluster = Some(cluster);
        self.start()
    }

    /// What it wants to hear: messages of the spec's workers if it is to scale by them, else nothing. Those of a worker that
    /// talks faster than it can hear are dropped; the next one counts as well.
    pub fn options(&self) -> SubscribeOptions {
        let kinds = if self.config.signals.contains(&LoadSignal::Messages) {
            Kinds::from(Kind::Message)
        } else {
            Kinds::NONE
        };
        let filter = EventFilter::kinds(kinds).spec(self.config.spec.clone());
        SubscribeOptions::new().name("autoscaler").filter(filter)
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let Some(cluster) = self.cluster.clone().filter(|_| !self.is_ordering) else {
            return;
        };
        let facts = self.sources.facts(&cluster.snapshot(), &self.config);
        let decision = self.decider.decide(facts);
        let is_order = decision.from != decision.to && !decision.dry_run;
        let told = Some((decision.from, decision.to, decision.why));
        if !is_order && self.told == told {
            return;
        }
        self.told = told;
        self.is_ordering = true;
        carry_out(cluster, decision, is_order)
            .into_actor(self)
            .map(|result, scaler, _| scaler.settled(result))
            .spawn(ctx);
    }

    fn settled(&mut self, result: Result<(), CommandError>) {
        self.is_ordering = false;
        if let Err(error) = result {
            self.decider.refused();
            if !matches!(error, CommandError::Gone | CommandError::ShuttingDown) {
                tracing::warn!(spec = %self.config.spec, err = %error, "the number of workers could not be changed");
            }
        }
    }
}

/// Tells, then does, in this order.
async fn carry_out(cluster: ClusterHandle, decision: ScaleDecision, is_order: bool) -> Result<(), CommandError> {
    let event =
        CustomEvent::new("autoscaler", "decision", &decision).expect("a decision is small, and has a JSON form");
    cluster.publish(None, Announcement::Custom(event)).await?;
    if is_order {
        cluster.scale_spec(decision.spec, decision.to).await?;
    }
    Ok(())
}

impl Actor for Autoscaler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.config.every, Self::look);
    }
}

impl Handler<ClusterEvent> for Autoscaler {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, _: &mut Self::Context) {
        if let (EventKind::Message(message), Some(worker)) = (&event.kind, &event.worker) {
            self.sources.spoken.hear(worker.id, message, event.at);
        }
    }
}

#[cfg(test)]
mod tests;
