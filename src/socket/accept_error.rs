//! What the errors of `accept` mean, wherever it is called.

use nix::errno::Errno;

/// What an error of `accept` calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptErrorAction {
    /// It was about that one connection, which is gone.
    TakeNext,
    /// The process (or the system) is out of something: trying at once would spin, on whichever socket.
    PauseAll,
    /// It is about this socket.
    PauseListener,
}

pub(crate) fn accept_error_action(errno: Option<i32>) -> AcceptErrorAction {
    match errno.map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => AcceptErrorAction::PauseAll,
        // Besides its own errors accept(2) passes on those that were pending on the new connection.
        Some(
            Errno::ECONNABORTED
            | Errno::ECONNRESET
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
            | Errno::ENONET
            | Errno::ENOPROTOOPT,
        ) => AcceptErrorAction::TakeNext,
        Some(_) | None => AcceptErrorAction::PauseListener,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_120_running_out_pauses_all_and_a_lost_connection_nothing() {
        let action = |errno: Errno| accept_error_action(Some(errno as i32));
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
            assert_eq!(action(errno), AcceptErrorAction::PauseAll, "{errno}");
        }
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO] {
            assert_eq!(action(errno), AcceptErrorAction::TakeNext, "{errno}");
        }
        assert_eq!(action(Errno::EINVAL), AcceptErrorAction::PauseListener);
        assert_eq!(accept_error_action(None), AcceptErrorAction::PauseListener);
    }
}
