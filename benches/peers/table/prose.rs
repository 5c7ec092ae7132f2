//! What a reader should know of each measure before its tables.

use crate::measure::Measure;

/// Title and text.
pub(super) const fn of(measure: Measure) -> (&'static str, &'static str) {
    match measure {
        Measure::Crash => (
            "Crash to answer",
            "One worker, killed by `SIGKILL`; how long until another process answers. A probe connects at once, every 2 ms, and \
             1 ms after one failed. With one worker it is the restart that is measured, and not who wins a connection. \
             Probes that are refused mean that nobody kept the listening socket while no worker lived. Before each kill the machine rests for 0.3 s \
             (6 s for granian), so processors sleep and caches are cold, as in life: killed in a row, all that start quickly are faster.",
        ),
        Measure::Storm => (
            "Kill storm",
            "Four workers, 16 clients with new connections in a closed loop; every 200 ms one of the workers that serve is killed. What a \
             killed worker was answering is lost whoever supervises it, unless somebody else holds its connections (`survive_kill`, the rows of \
             actix-cluster but one), so the faster a server, the more it has in its hands: compare failures a kill with others of the same speed. \
             A client whose request failed rests for 5 ms. Who stands by is not counted as a worker.",
        ),
        Measure::Reload => (
            "Rolling reload",
            "Four workers, 16 clients in a closed loop; the reload is over when no old worker is left and as many new ones run, those that stand \
             by not counted. Failures count over the whole run, before and after it too.",
        ),
        Measure::Throughput => (
            "Throughput and latency",
            "Two workers and the load client share the machine's cores, so above some rate it is the client that is measured. 64 kept connections, \
             32 with new ones. Most targets have two states, one in which requests come in batches and one in which each wakes a sleeping process, \
             and a run falls into one of them: rates, latencies and processor time for an answer differ by half or more between the two. So the closed \
             loops are taken three times as often as anything else; look at the ranges, and at the ratio to nginx of the same round, which is the median \
             of the rounds' ratios. In the open loop a latency counts from when the request was due; how much later it was sent is the client's own doing, \
             and told beside it.",
        ),
        Measure::Idle => (
            "Idle workers",
            "From the start of the program until every worker is ready, by its own word; nginx says none, so there it is until as many are forked \
             and one answers. Then two seconds of rest, and a look at what it costs. PSS counts shared pages in parts. \"All in\" is the master with all \
             that it started (keepers of connections, standbys, a zygote), divided by the workers.",
        ),
        Measure::Ipc => (
            "Messages between master and worker",
            "JSON objects with a text of that size; the bare socket carries the same bytes without JSON. Node's is `process.send` of \
             `child_process.fork`, the channel of its cluster. Compare a direction with the same one.",
        ),
    }
}
