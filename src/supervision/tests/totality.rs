//! I-18: each machine takes every input in every state that it can reach: no panic, and it still ends.
//!
//! The states of [`Supervision`] are those of simulated histories: a history is written down, and every input is fed after
//! each of its steps to a machine that has just lived through them. Those of [`Lifecycle`] are all that a few inputs reach.

use super::history::{Told, history};
use super::plan::Plan;
use super::*;
use crate::model::{
    BoundAddress, EndCause, Exit, ExitReason, ExitStatus, RecycleReason, Signal, WorkerError, WorkerStats,
};
use crate::policy::RolloutOptions;

/// Every input, about each of these workers, slots and specs.
fn every_input(ids: &[WorkerId], slots: &[Slot]) -> Vec<Input> {
    let exit = Exit {
        status: ExitStatus::Code(1),
        reason: ExitReason::Crash,
        forced: false,
        requests_cut: 0,
        was_ready: false,
        drain: None,
        last_words: None,
    };
    let address = BoundAddress::tcp(([127, 0, 0, 1], 80).into());
    let mut inputs = vec![
        Input::Started,
        Input::ClusterDisconnectRequested,
        Input::ShutdownRequested { now: false },
        Input::ShutdownRequested { now: true },
    ];
    for &id in ids {
        let why = RecycleReason::Memory;
        inputs.extend([
            Input::WorkerForked { id },
            Input::WorkerOnline { id },
            Input::WorkerStandsBy { id },
            Input::WorkerListening {
                id,
                address: address.clone(),
            },
            Input::WorkerReady { id },
            Input::WorkerExiting { id },
            Input::WorkerDisconnected { id },
            Input::WorkerExited { id, exit: exit.clone() },
            Input::WorkerFailed {
                id,
                error: WorkerError::Unkillable,
            },
            Input::WorkerStopRequested { id },
            Input::RestartRequested { id },
            Input::RecycleRequested { id, why },
        ]);
    }
    let request = RequestId(u64::MAX);
    inputs.extend(slots.iter().cloned().map(|slot| Input::SlotStartRequested { slot }));
    for spec in slots.iter().map(|slot| slot.spec.clone()).chain(["unknown".into()]) {
        let config = Box::new(SpecConfig::new(spec.clone(), 2));
        inputs.extend([
            Input::SlotForkRequested {
                request,
                spec: spec.clone(),
            },
            Input::SpecAddRequested { request, config },
            Input::SpecStopRequested {
                request,
                spec: spec.clone(),
            },
            Input::SpecStartRequested {
                request,
                spec: spec.clone(),
            },
            Input::SpecRestartRequested {
                request,
                spec: spec.clone(),
            },
            Input::SpecDeleteRequested {
                request,
                spec: spec.clone(),
            },
        ]);
        for count in [i64::MIN, 0, 1, 9] {
            let (spec, target) = (spec.clone(), ScaleTarget::To(count));
            inputs.push(Input::ScaleRequested {
                request,
                spec,
                target,
                active: Vec::new(),
            });
        }
        for (surge, max_unavailable) in [(1, 0), (0, 1), (0, 0)] {
            let options = RolloutOptions::new().surge(surge).max_unavailable(max_unavailable);
            inputs.push(Input::ReloadRequested {
                request,
                spec: Some(spec.clone()),
                options,
                queue: surge == 0,
            });
        }
    }
    for number in 0..90 {
        let (request, why) = (RequestId(number), "no".to_owned());
        inputs.push(Input::CanaryJudged {
            request,
            good: number % 2 == 0,
            why,
        });
    }
    inputs
}

fn relive(config: &SupervisionConfig, told: &[Told]) -> (Supervision, Mono) {
    let mut machine = Supervision::new(config.clone());
    let mut now = Mono::default();
    for (at, input) in told {
        now = *at;
        match input {
            Some(input) => machine.handle(input.clone(), now),
            None => machine.handle_deadline(now),
        }
        while machine.poll_action().is_some() {}
    }
    (machine, now)
}

/// Nobody answers any more: everybody who is started or stopped just ends. A shutdown must end all the same.
fn ends(machine: &mut Supervision, now: Mono) -> bool {
    machine.handle(Input::ShutdownRequested { now: false }, now);
    for _ in 0..10_000 {
        let is_finished =
            std::iter::from_fn(|| machine.poll_action()).any(|action| matches!(action, Action::Finished(_)));
        if is_finished || machine.phase() == Phase::Stopped {
            return true;
        }
        let slots = machine.slots();
        let standby = machine.standbys.iter().next().map(|standby| standby.worker.id);
        let in_slot = || slots.iter().rev().find_map(|slot| slot.beside.or(slot.worker));
        let Some(id) = standby.or_else(in_slot) else {
            return false;
        };
        machine.handle(Input::WorkerForked { id }, now);
        let exit = Exit {
            status: ExitStatus::Code(0),
            reason: ExitReason::Ordered,
            forced: false,
            requests_cut: 0,
            was_ready: true,
            drain: None,
            last_words: None,
        };
        machine.handle(Input::WorkerExited { id, exit }, now);
    }
    false
}

#[test]
fn i_018_every_input_in_every_state_of_a_cluster() {
    for seed in [1, 4, 8] {
        let (config, told) = history(Plan::new(seed));
        // A machine cannot be copied, so each state costs its past; some are left out.
        for length in (0..told.len().min(160)).step_by(5) {
            let (machine, _) = relive(&config, &told[..length]);
            let slots: Vec<Slot> = machine.slots().into_iter().map(|slot| slot.slot).collect();
            let snapshots = machine.slots();
            let living = snapshots
                .iter()
                .flat_map(|slot| slot.worker.into_iter().chain(slot.beside));
            let standby = machine.standbys.iter().next().map(|standby| standby.worker.id);
            let mut ids: Vec<WorkerId> = living.take(4).chain(standby).collect();
            ids.extend([WorkerId::new(1), WorkerId::new(9_999)]);
            for input in every_input(&ids, &slots[..slots.len().min(2)]) {
                let (mut machine, now) = relive(&config, &told[..length]);
                let word = format!("I-18: seed {seed}, step {length}, {input:?}");
                machine.handle(input, now);
                assert!(ends(&mut machine, now), "{word}: it does not end");
                let kept = machine.roster.workers().find(|worker| !worker.is_unkillable());
                assert!(kept.is_none(), "{word}: {kept:?} is kept");
            }
        }
    }
}

#[test]
fn i_018_every_input_in_every_state_of_a_process() {
    let address = BoundAddress::tcp(([127, 0, 0, 1], 80).into());
    let inputs = [
        LifeInput::Online,
        LifeInput::Listening(address),
        LifeInput::Ready,
        LifeInput::StandsBy,
        LifeInput::Activated,
        LifeInput::Leaving,
        LifeInput::Stats(WorkerStats::default()),
        LifeInput::ChannelClosed,
        LifeInput::ProtocolBroken("x".to_owned()),
        LifeInput::StopOrdered(ShutdownPolicy::Grace(SECOND)),
        LifeInput::StopOrdered(ShutdownPolicy::Brutal),
        LifeInput::Blamed(EndCause::Hang("main".to_owned())),
        LifeInput::OutOfMemory,
        LifeInput::MoreTime(SECOND),
        LifeInput::Unread(SECOND),
        LifeInput::KillOrdered(Signal::TERM),
        LifeInput::KillOrdered(Signal::KILL),
        LifeInput::Exited(ExitStatus::Code(0)),
    ];
    // One more than the inputs stands for time that passes.
    let letters = inputs.len() + 1;
    for word in 0..2 * letters.pow(4) {
        let is_standby = word % 2 == 0;
        let mut life = Lifecycle::new(LifecycleConfig { is_standby, ..limits() }, ms(0));
        let (mut rest, mut now) = (word / 2, ms(0));
        for _ in 0..4 {
            let (letter, left) = (rest % letters, rest / letters);
            rest = left;
            match inputs.get(letter) {
                Some(input) => drop(life.handle(input.clone(), now)),
                None => {
                    now = now + 3 * SECOND;
                    life.handle_deadline(now);
                }
            }
        }
        life.handle(LifeInput::Exited(ExitStatus::Code(0)), now);
        let outputs: Vec<Output> = std::iter::from_fn(|| life.poll_output()).collect();
        let is_exit =
            |output: &&Output| matches!(output, Output::Fact(report) if matches!(report.fact, Fact::Exited(_)));
        let is_kill = |output: &&Output| matches!(output, Output::Order(Order::Signal(Signal::KILL)));
        assert_eq!(
            outputs.iter().filter(is_exit).count(),
            1,
            "I-18, I-02: word {word}: {outputs:?}"
        );
        assert!(
            outputs.last().is_some_and(|last| is_exit(&last)),
            "I-18: word {word}: {outputs:?}"
        );
        assert!(
            outputs.iter().filter(is_kill).count() <= 1,
            "I-10: word {word}: {outputs:?}"
        );
    }
}
