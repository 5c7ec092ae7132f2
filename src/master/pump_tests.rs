//! Proofs about feeding actors in a flood, without processes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use actix::{Actor, Arbiter, AsyncContext, Context, Handler, WrapFuture};
use tokio::sync::Notify;

use super::{UNDER_WAY_MAX, forward};
use crate::clock;
use crate::events::Events;
use crate::master::Subscribers;
use crate::model::{ClusterEvent, EventKind, SubscriberLoss};
use crate::subscription::{SubscribeOptions, Subscription, WhenFull};

/// More than is under way at once, and more than is taken at once.
const FLOOD: u64 = 1_000;

fn event(seq: u64) -> ClusterEvent {
    ClusterEvent {
        seq,
        at: clock::now(),
        time: clock::wall(),
        worker: None,
        kind: EventKind::ShutdownStarted,
    }
}

/// Notes the numbers of what it hears.
#[derive(Default)]
struct Hears {
    heard: Arc<Mutex<Vec<u64>>>,
    mailbox: usize,
    panics_at: Option<u64>,
    ends_at: Option<(u64, Subscription)>,
    /// Never done with the event of this number.
    stuck_at: Option<u64>,
    told: Arc<Notify>,
}

impl Actor for Hears {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.mailbox);
    }
}

impl Handler<ClusterEvent> for Hears {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, ctx: &mut Self::Context) {
        assert_ne!(Some(event.seq), self.panics_at, "as the test wants");
        self.heard.lock().unwrap().push(event.seq);
        if let Some((at, subscription)) = &self.ends_at
            && *at == event.seq
        {
            subscription.end();
        }
        if self.stuck_at == Some(event.seq) {
            self.told.notify_one();
            ctx.wait(std::future::pending::<()>().into_actor(self));
        }
    }
}

/// A queue with the whole flood in it, and its end.
fn flooded() -> (Arc<Subscribers>, Events) {
    let subscribers = Arc::new(Subscribers::new(0));
    let events = Events::new(&subscribers, &SubscribeOptions::default());
    subscribers.publish((1..=FLOOD).map(event));
    subscribers.finish();
    (subscribers, events)
}

#[actix_rt::test]
async fn f_165_in_a_flood_an_actor_hears_all_in_their_order_whatever_its_mailbox_holds() {
    for mailbox in [1, 2, 16] {
        let (_subscribers, mut events) = flooded();
        let actor = Hears {
            mailbox,
            ..Hears::default()
        };
        let heard = Arc::clone(&actor.heard);
        let actor = Hears::start_in_arbiter(&Arbiter::new().handle(), |_| actor).recipient();
        assert_eq!(forward(&mut events, &actor).await, None);
        assert!(heard.lock().unwrap().iter().copied().eq(1..=FLOOD), "mailbox {mailbox}");
    }
}

#[actix_rt::test]
async fn f_158_in_a_flood_the_event_at_which_an_actor_broke_is_named() {
    for at in [1, 2, 77, 500, FLOOD] {
        let (_subscribers, mut events) = flooded();
        let actor = Hears {
            mailbox: 16,
            panics_at: Some(at),
            ..Hears::default()
        };
        let heard = Arc::clone(&actor.heard);
        let actor = actor.start().recipient();
        let lost = forward(&mut events, &actor).await;
        assert_eq!(lost, Some(SubscriberLoss::Broken { seq: at }));
        assert!(heard.lock().unwrap().iter().copied().eq(1..at));
    }
}

#[actix_rt::test]
async fn f_163_in_a_flood_whoever_keeps_the_subscription_ends_it_with_the_event_at_hand() {
    let (_subscribers, mut events) = flooded();
    let actor = Hears {
        mailbox: 16,
        ends_at: Some((700, events.subscription())),
        ..Hears::default()
    };
    let heard = Arc::clone(&actor.heard);
    let actor = actor.start().recipient();
    assert_eq!(forward(&mut events, &actor).await, None);
    assert!(heard.lock().unwrap().iter().copied().eq(1..=700));
}

#[actix_rt::test]
async fn an_actor_whose_events_are_replaced_by_newer_ones_is_never_handed_two() {
    let subscribers = Arc::new(Subscribers::new(0));
    let options = SubscribeOptions::new().when_full(WhenFull::Latest);
    let mut events = Events::new(&subscribers, &options);
    subscribers.publish((1..=FLOOD).map(event));
    assert!(!events.may_run_ahead());
    assert_eq!(events.next().await.map(|event| event.seq), Some(FLOOD));
    assert!(events.next_at_once().is_none());
}

#[actix_rt::test]
async fn i_30_to_an_actor_that_does_not_go_on_only_a_few_events_are_under_way() {
    let (_subscribers, mut events) = flooded();
    let actor = Hears {
        mailbox: 16,
        stuck_at: Some(200),
        ..Hears::default()
    };
    let (heard, told) = (Arc::clone(&actor.heard), Arc::clone(&actor.told));
    let actor = actor.start().recipient();
    let mut feeding = Box::pin(forward(&mut events, &actor));
    tokio::select! {
        biased;
        _ = &mut feeding => panic!("it is not done"),
        () = told.notified() => {}
    }
    // Whatever could still be handed over is, and then nothing more.
    for _ in 0..100 {
        assert!(look_at(feeding.as_mut()).await.is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(heard.lock().unwrap().last(), Some(&200));
    drop(feeding);
    let next = events.next().await.expect("there are more");
    let handed = next.seq - 1;
    assert!(
        (200..=200 + UNDER_WAY_MAX as u64).contains(&handed),
        "{handed} were handed on"
    );
}

/// One look at a future.
async fn look_at<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
