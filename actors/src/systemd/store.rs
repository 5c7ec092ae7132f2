//! The service manager's store of descriptors: listening sockets that outlive this program.
//!
//! Not here: how they are taken back, which is socket activation (`ClusterBuilder::listen_activated_or_with`).

use std::os::fd::OwnedFd;

use actix::{ActorFutureExt, Context, ContextFutureSpawner, WrapFuture};
use actix_cluster::{ClusterHandle, CommandError};

use super::SystemdNotifier;

/// The names of what was handed over to this process, if anything was.
pub(super) fn handed_over() -> Vec<String> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID").parse() != Ok(std::process::id()) {
        return Vec::new();
    }
    let names = variable("LISTEN_FDNAMES");
    names
        .split(':')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

impl SystemdNotifier {
    /// Gives every socket that can be kept, and takes back what nobody listens on.
    pub(super) fn keep_listeners(&self, ctx: &mut Context<Self>) {
        let Some(cluster) = self.cluster.clone() else { return };
        let question = async move { (cluster.listener_sockets().await, cluster) };
        let kept = |(sockets, cluster), notifier: &mut Self, ctx: &mut Context<Self>| {
            notifier.keep(sockets, &cluster, ctx);
        };
        question.into_actor(self).map(kept).spawn(ctx);
    }

    fn keep(
        &mut self,
        sockets: Result<Vec<(String, OwnedFd)>, CommandError>,
        cluster: &ClusterHandle,
        ctx: &mut Context<Self>,
    ) {
        let sockets = match sockets {
            Ok(sockets) => sockets,
            Err(CommandError::Gone) => return,
            Err(error) => {
                tracing::warn!(err = %error, "listeners cannot be stored; the next start will bind them anew");
                return;
            }
        };
        let handed_over = std::mem::take(&mut self.config.handed_over);
        for name in handed_over.iter().filter(|name| cluster.address(name).is_none()) {
            self.give(format!("FDSTOREREMOVE=1\nFDNAME={name}"), None, ctx);
        }
        for (name, socket) in sockets {
            if is_storable(&name) {
                self.give(format!("FDSTORE=1\nFDNAME={name}"), Some(socket), ctx);
            } else {
                tracing::warn!(
                    what = name,
                    "a listener of this name cannot be stored: 255 printable characters at most, and no colon"
                );
            }
        }
    }

    fn give(&mut self, text: String, fd: Option<OwnedFd>, ctx: &mut Context<Self>) {
        if let Some(sent) = self.socket.as_mut().map(|socket| socket.give(text, fd)) {
            self.after(&sent, ctx);
        }
    }
}

/// What systemd takes for a name; others it would replace by `stored`, which nobody asks for later.
fn is_storable(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_systemd_refuses_are_not_given() {
        for (name, is_good) in [
            ("http", true),
            ("a b", true),
            ("", false),
            ("a:b", false),
            ("a\nREADY=1", false),
            ("caf\u{e9}", false),
        ] {
            assert_eq!(is_storable(name), is_good, "{name:?}");
        }
        assert!(!is_storable(&"x".repeat(256)));
    }
}
