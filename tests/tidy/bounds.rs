//! Everything that could grow has a bound, and a test that pushes against it (I-30).

use super::{Finding, Workspace};

/// What holds things for somebody who may not come, and who shows that it is full one day.
const STORES: [(&str, &str); 10] = [
    ("outbox", "f_069_nobody_reads_so_it_is_full_and_memory_is_bounded"),
    (
        "frames of the outbox",
        "frames_are_bounded_too_and_one_frame_always_fits",
    ),
    (
        "inbox",
        "f_068_a_turn_returns_at_most_64_frames_and_the_rest_comes_without_reading",
    ),
    ("open calls", "calls_are_bounded_and_a_dropped_ticket_makes_room"),
    (
        "queue of a subscriber",
        "f_160_a_flood_of_large_messages_costs_bounded_memory",
    ),
    (
        "queue that holds back",
        "f_160_a_reliable_subscriber_that_is_stuck_costs_bounded_memory_and_no_message",
    ),
    (
        "events under way to an actor",
        "i_30_to_an_actor_that_does_not_go_on_only_a_few_events_are_under_way",
    ),
    (
        "queues of a hundred subscribers",
        "f_166_i_30_a_hundred_subscribers_cost_little_and_hold_a_bounded_number_of_events",
    ),
    ("history", "i_30_the_history_is_bounded_in_events_and_in_bytes"),
    (
        "a line that is printed",
        "f_229_endless_output_without_a_newline_is_bounded",
    ),
];

/// The section whose rows name a limit and the file that holds it.
const HEAD: &str = "## Limits";

pub(super) fn bounds_are_shown(workspace: &Workspace) -> Vec<Finding> {
    let tell = |line, why: String| Finding::new("ARCHITECTURE.md", line, "everything is bounded", why);
    let mut findings = Vec::new();
    for (store, test) in STORES {
        let function = format!("fn {test}(");
        let mut lines = workspace.sources.iter().flat_map(|source| &source.text);
        if !lines.any(|line| line.contains(&function)) {
            findings.push(tell(0, format!("no test `{test}` shows the bound of: {store}")));
        }
    }
    let Some(architecture) = workspace.text("ARCHITECTURE.md") else {
        return Vec::new();
    };
    let lines = architecture.lines().enumerate().skip_while(|(_, line)| *line != HEAD);
    let section = lines.skip(1).take_while(|(_, line)| !line.starts_with("## "));
    for (index, row) in section.filter(|(_, line)| line.starts_with("| ")) {
        let place = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        for path in place.split('`').skip(1).step_by(2) {
            let is_there = |source: &crate::Source| {
                source.path.starts_with(path) || source.path.starts_with(&format!("src/{path}"))
            };
            if !workspace.sources.iter().any(is_there) {
                findings.push(tell(index, format!("`{path}` is gone; who holds this limit now?")));
            }
        }
    }
    findings
}
