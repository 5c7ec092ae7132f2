//! Feeding actors: takes events out of a queue and hands them to an actor, until either ends.
//!
//! Where nothing piles up, the next event is for an actor that is done with this one. In a flood several are under way, so
//! that neither thread waits for the other at each event; how many is decided here, and it stays one where that can be
//! seen from outside: by who may end the subscription, or by an actor that takes its time.
//!
//! Not here: where a pump runs. It is a task of its own, and holds up nobody while its actor is busy.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix::dev::RecipientRequest;
use actix::{MailboxError, Recipient};

use crate::clock;
use crate::events::Events;
use crate::handle::ClusterHandle;
use crate::model::{ClusterEvent, Mono, SubscriberLoss};

/// Feeds an actor; tells everybody if the actor is gone.
pub(crate) async fn pump(mut events: Events, actor: Recipient<ClusterEvent>, cluster: ClusterHandle) {
    if let Some(why) = forward(&mut events, &actor).await {
        let name = events.name().to_owned();
        // The queue goes first, so that the news is not for it.
        drop(events);
        cluster.tell_lost(name, why).await;
    }
}

/// Feeds an actor until the subscription ends, or until the actor is gone: then with what became of it.
pub(crate) async fn forward(events: &mut Events, actor: &Recipient<ClusterEvent>) -> Option<SubscriberLoss> {
    let (mut under_way, mut window) = (UnderWay::default(), 1);
    while let Some(event) = events.next().await {
        if !actor.connected() {
            let broken = under_way.wait_until(0).await.err();
            return Some(broken.map_or(SubscriberLoss::Stopped, |seq| SubscriberLoss::Broken { seq }));
        }
        let now = clock::now();
        under_way.hand(actor, event, now);
        while under_way.len() < window
            && let Some(event) = events.next_at_once()
        {
            under_way.hand(actor, event, now);
        }
        // In a flood half of them are waited for, so that the actor has something to do while the next ones come.
        let left = if events.at_once() > 0 { window / 2 } else { 0 };
        match under_way.wait_until(left).await {
            Err(seq) => return Some(SubscriberLoss::Broken { seq }),
            Ok(since) => window = next_window(window, clock::now().since(since), events),
        }
    }
    None
}

/// How many events may be under way from now on, when the last answer took so long.
fn next_window(window: usize, took: Duration, events: &Events) -> usize {
    let waiting = events.at_once();
    if waiting == 0 || took > UNDER_WAY_TIME_MAX || !events.may_run_ahead() {
        return 1;
    }
    if waiting < window {
        return window;
    }
    (window * 2).min(UNDER_WAY_MAX)
}

/// Events that are in the actor's mailbox or in its hands, oldest first.
#[derive(Default)]
struct UnderWay {
    handed: VecDeque<Handed>,
    /// Of requests that are done: each is large, and need not be made anew for each event.
    spare: Vec<Place>,
}

struct Handed {
    seq: u64,
    since: Mono,
    request: Place,
    /// What became of it, once that is known.
    answer: Option<Result<(), MailboxError>>,
}

type Place = Pin<Box<Option<RecipientRequest<ClusterEvent>>>>;

impl UnderWay {
    fn len(&self) -> usize {
        self.handed.len()
    }

    fn hand(&mut self, actor: &Recipient<ClusterEvent>, event: ClusterEvent, since: Mono) {
        let seq = event.seq;
        let mut request = self.spare.pop().unwrap_or_else(|| Box::pin(None));
        request.set(Some(actor.send(event)));
        let mut handed = Handed {
            seq,
            since,
            request,
            answer: None,
        };
        // A request that found the mailbox full keeps its event until it is polled first, and a later one could overtake
        // it. Nobody is to be woken for it: whose answer is waited for is polled again.
        handed.is_answered(&mut Context::from_waker(Waker::noop()));
        self.handed.push_back(handed);
    }

    /// Waits until only `left` are under way; tells since when the last of those that are done was. The error is the number
    /// of the first that the actor was not done with.
    async fn wait_until(&mut self, left: usize) -> Result<Mono, u64> {
        let done = self.handed.len().saturating_sub(left);
        // An actor answers in order, so the last answer wakes this task once for all of them; but where an actor is gone,
        // the first that is missing tells at which event.
        poll_fn(|cx| {
            let mut last_first = self.handed.range_mut(..done).rev();
            if last_first.all(|handed| handed.is_answered(cx)) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        let mut since = Mono::default();
        for mut handed in self.handed.drain(..done) {
            if handed.answer != Some(Ok(())) {
                return Err(handed.seq);
            }
            since = handed.since;
            handed.request.set(None);
            self.spare.push(handed.request);
        }
        Ok(since)
    }
}

impl Handed {
    fn is_answered(&mut self, cx: &mut Context<'_>) -> bool {
        if self.answer.is_none()
            && let Some(request) = self.request.as_mut().as_pin_mut()
            && let Poll::Ready(answer) = request.poll(cx)
        {
            self.answer = Some(answer);
        }
        self.answer.is_some()
    }
}

/// The most events that are under way to one actor: half of what a mailbox of the usual size holds, so that others find
/// room in it.
const UNDER_WAY_MAX: usize = 8;
/// An actor that takes longer for those is fed one by one again: what else it is asked must not wait behind many events.
const UNDER_WAY_TIME_MAX: Duration = Duration::from_millis(10);

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
