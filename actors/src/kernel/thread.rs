//! What `/proc` tells about a thread that does not turn. Reads, and judges nothing.
//!
//! The process is a child of this master that is not reaped yet, so its number is its own; should it end meanwhile, the
//! files are gone and nothing is found out.

use actix_cluster::Evidence;

use super::text;

/// What can be found out about this thread of the process.
pub(crate) fn collect(pid: u32, tid: u32, doing: &str) -> Evidence {
    let file = |name: &str| read(&format!("/proc/{pid}/task/{tid}/{name}"));
    let status = file("status");
    let mut evidence = Evidence::default();
    evidence.tid = Some(tid);
    evidence.state = field(&status, "State:").to_owned();
    evidence.tracer = tracer_in(&status);
    evidence.wchan = file("wchan");
    evidence.syscall = file("syscall");
    evidence.kernel_stack = file("stack").lines().map(str::to_owned).collect();
    evidence.doing = doing.to_owned();
    evidence
}

/// Does a debugger hold the process?
pub(crate) fn is_traced(pid: u32) -> bool {
    tracer_in(&read(&format!("/proc/{pid}/status"))).is_some()
}

fn tracer_in(status: &str) -> Option<u32> {
    field(status, "TracerPid:").parse().ok().filter(|tracer| *tracer != 0)
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.map_or("", str::trim)
}

/// The text of a file; empty if it cannot be read, which for some of them takes privilege.
fn read(path: &str) -> String {
    text(path).map_or_else(String::new, |text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_our_own_is_described_and_one_that_is_not_there_is_not() {
        let pid = std::process::id();
        let evidence = collect(pid, pid, "GET /");
        assert!(!evidence.state.is_empty(), "{evidence:?}");
        assert_eq!((evidence.tid, evidence.doing.as_str()), (Some(pid), "GET /"));
        let nothing = collect(pid, u32::MAX, "");
        assert_eq!((nothing.state.as_str(), nothing.tracer), ("", None));
        assert!(nothing.kernel_stack.is_empty());
    }

    #[test]
    fn a_tracer_is_one_with_a_number() {
        assert_eq!(tracer_in("State:\tR (running)\nTracerPid:\t0\n"), None);
        assert_eq!(tracer_in("State:\tt (tracing stop)\nTracerPid:\t12\n"), Some(12));
        assert_eq!(tracer_in(""), None);
    }
}
