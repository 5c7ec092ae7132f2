//! Work of the cluster's machine whose instructions are counted (`benches/instructions.rs`): a thousand lives, with and
//! without somebody who stands by.
//!
//! A fixed history, and not one of the simulated world: that changes with every rule that is added, and what is counted is to
//! change only when the machine does more for the same inputs. Not here: what the machine should do.

use super::*;
use crate::model::{BoundAddress, Exit, ExitReason, ExitStatus};
use crate::policy::RolloutOptions;

/// Everybody dies eight times in turn, is replaced once by a reload, and is stopped at the end; how many ended.
#[inline(never)]
fn counted_lives(machine: &mut Supervision) -> usize {
    let mut now = ms(0);
    machine.handle(Input::Started, now);
    // Who fills each slot, by its number.
    let mut filled = vec![WorkerId::FIRST; SLOTS];
    let mut ends = live(machine, &mut filled, now);
    for death in 0..DEATHS {
        machine.handle(exited(filled[death % SLOTS], ExitReason::Crash), now);
        ends += 1 + live(machine, &mut filled, now);
        // Long enough for the next standby.
        now = now + SECOND;
        machine.handle_deadline(now);
        ends += live(machine, &mut filled, now);
    }
    let reload = Input::ReloadRequested {
        request: RequestId(1),
        spec: None,
        options: RolloutOptions::default(),
        queue: false,
    };
    machine.handle(reload, now);
    ends += live(machine, &mut filled, now);
    while machine.reloading().is_some() {
        now = machine.next_deadline().expect("a reload goes on by itself");
        machine.handle_deadline(now);
        ends += live(machine, &mut filled, now);
    }
    machine.handle(Input::ShutdownRequested { now: false }, now);
    ends + live(machine, &mut filled, now)
}

/// Does what is ordered until nothing more is; how many ended.
fn live(machine: &mut Supervision, filled: &mut [WorkerId], now: Mono) -> usize {
    let mut ends = 0;
    while let Some(action) = machine.poll_action() {
        match action {
            Action::Spawn { id, slot, .. } => {
                filled[slot.index as usize] = id;
                machine.handle(Input::WorkerForked { id }, now);
                machine.handle(Input::WorkerOnline { id }, now);
                serve(machine, id, now);
            }
            Action::SpawnStandby { id, .. } => {
                machine.handle(Input::WorkerForked { id }, now);
                machine.handle(Input::WorkerOnline { id }, now);
                machine.handle(Input::WorkerStandsBy { id }, now);
            }
            Action::Promote { id, slot, .. } => {
                filled[slot.index as usize] = id;
                serve(machine, id, now);
            }
            Action::Stop { id, .. } => {
                machine.handle(Input::WorkerExiting { id }, now);
                machine.handle(Input::WorkerDisconnected { id }, now);
                machine.handle(exited(id, ExitReason::Ordered), now);
                ends += 1;
            }
            // Told to others.
            _ => {}
        }
    }
    ends
}

fn serve(machine: &mut Supervision, id: WorkerId, now: Mono) {
    let address = BoundAddress::tcp(([127, 0, 0, 1], 80).into());
    machine.handle(Input::WorkerListening { id, address }, now);
    machine.handle(Input::WorkerReady { id }, now);
}

fn exited(id: WorkerId, reason: ExitReason) -> Input {
    let exit = Exit {
        status: ExitStatus::Code(u8::from(reason == ExitReason::Crash).into()),
        reason,
        forced: false,
        requests_cut: 0,
        was_ready: true,
        drain: None,
        last_words: None,
    };
    Input::WorkerExited { id, exit }
}

/// All lives; one that stands by ends without having served.
fn lives(standby: u32) -> usize {
    let mut config = web(u32::try_from(SLOTS).unwrap());
    config.specs[0].delay = RestartDelay::AtOnce;
    config.specs[0].limit = RestartLimit::unlimited();
    config.specs[0].standby = standby;
    config.max_booting = 64;
    let mut machine = Supervision::new(config);
    let ends = counted_lives(&mut machine);
    assert_eq!(machine.phase(), Phase::Stopped);
    assert_eq!(machine.ignored(), 0);
    ends
}

#[test]
fn a_thousand_lives_end_once_each() {
    assert_eq!(lives(0), SLOTS + DEATHS + SLOTS);
}

#[test]
fn with_a_standby_they_end_once_each_too() {
    assert!(lives(1) > SLOTS + DEATHS + SLOTS);
}

const SLOTS: usize = 100;
const DEATHS: usize = 800;
