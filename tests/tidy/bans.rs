//! The words that are banned, where, and why: one row each. How they are looked for is in `tidy.rs`.

/// Words that must not appear, where, and why.
pub(super) struct Ban {
    pub(super) rule: &'static str,
    /// Prefixes of paths; empty for everywhere.
    pub(super) under: &'static [&'static str],
    pub(super) except: &'static [&'static str],
    pub(super) look_at: Plane,
    /// Between spaces; `*` at the end takes any rest of an identifier.
    pub(super) words: &'static str,
    pub(super) why: &'static str,
}

/// What is searched for the words. Imports are written out first, so that braces hide nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    /// Code that is built without tests.
    Shipped,
    /// All code, tests included.
    Code,
    Comments,
}

pub(super) const BANS: &[Ban] = &[
    Ban {
        rule: "model is values",
        under: &["src/model/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix* tokio* nix libc tracing std::fs std::env std::thread std::net::Tcp* TcpStream TcpListener \
            UdpSocket UnixStream UnixListener Instant SystemTime::now crate::clock crate::sys crate::policy \
            crate::supervision crate::ipc crate::process crate::recorder crate::socket crate::master crate::worker",
        why: "a noun does no I/O, reads no clock and knows no room above it",
    },
    Ban {
        rule: "decisions are pure",
        under: &["src/policy/", "src/supervision/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix* tokio* nix libc tracing rand fastrand std::fs std::env std::net std::thread thread::* \
            Instant SystemTime crate::clock crate::sys crate::ipc crate::process crate::recorder crate::socket \
            crate::master crate::worker",
        why: "facts and `now` come in, values go out; that is what makes a run replayable",
    },
    Ban {
        rule: "policy is below supervision",
        under: &["src/policy/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "crate::supervision super::supervision",
        why: "a machine asks a policy, never the other way round",
    },
    Ban {
        rule: "ipc knows no other room",
        under: &["src/ipc/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix actix_web crate::process crate::recorder crate::socket crate::policy crate::supervision crate::master \
            crate::worker",
        why: "the I/O rooms are siblings that do not know each other",
    },
    Ban {
        rule: "process knows no other room",
        under: &["src/process/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix actix_web crate::ipc crate::recorder crate::socket crate::policy crate::supervision crate::master \
            crate::worker",
        why: "the I/O rooms are siblings that do not know each other",
    },
    Ban {
        rule: "recorder knows no other room",
        under: &["src/recorder/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix actix_web tokio* crate::ipc crate::process crate::socket crate::policy crate::supervision \
            crate::master crate::worker",
        why: "the I/O rooms are siblings that do not know each other",
    },
    Ban {
        rule: "handover knows no other room",
        under: &["src/handover/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix actix_web crate::ipc crate::process crate::recorder crate::socket crate::policy crate::supervision \
            crate::master crate::worker",
        why: "the I/O rooms are siblings that do not know each other",
    },
    Ban {
        rule: "socket knows no other room",
        under: &["src/socket/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix actix_web crate::ipc crate::process crate::recorder crate::policy crate::supervision crate::master \
            crate::worker",
        why: "the I/O rooms are siblings that do not know each other",
    },
    Ban {
        rule: "sys is a door, not a room",
        under: &["src/sys/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix* crate::ipc crate::process crate::recorder crate::socket crate::policy crate::supervision crate::master \
            crate::worker",
        why: "it wraps calls of the kernel and knows nobody who makes them",
    },
    Ban {
        rule: "master does not know worker",
        under: &["src/master/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "crate::worker",
        why: "the two sides share the channel and the model, nothing else",
    },
    Ban {
        rule: "worker does not know master",
        under: &["src/worker/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "crate::master crate::policy crate::supervision",
        why: "the two sides share the channel and the model, nothing else",
    },
    Ban {
        rule: "unsafe lives in sys",
        under: &[],
        except: &["src/sys/"],
        look_at: Plane::Code,
        words: "unsafe",
        why: "one room is small enough to read before every release",
    },
    Ban {
        rule: "the wall clock is for people",
        under: &["src/"],
        except: &["src/clock.rs", "src/master/publisher.rs"],
        look_at: Plane::Shipped,
        words: "clock::wall",
        why: "it can be set; only the stamp of an event shows it, everything else counts on `Mono`",
    },
    Ban {
        rule: "one room reads the kernel",
        under: &["actors/src/"],
        except: &["actors/src/kernel/"],
        look_at: Plane::Shipped,
        words: "procfs* std::fs::File",
        why: "what `/proc` and the control groups tell is read once, in `kernel`, and used by every plug-in",
    },
    Ban {
        rule: "plug-ins have no privileges",
        under: &["actors/src/"],
        except: &[],
        look_at: Plane::Shipped,
        words: "actix_cluster::testing",
        why: "a plug-in of this workspace can do what any author's can, and no more",
    },
    Ban {
        rule: "nothing public is hidden",
        under: &["src/"],
        except: &[],
        look_at: Plane::Code,
        words: "doc(hidden)",
        why: "a hidden item is a door for our own plug-ins that others do not know of",
    },
    Ban {
        rule: "no do_send",
        under: &[],
        except: &[],
        look_at: Plane::Code,
        words: ".do_send(",
        why: "it ignores the mailbox's bound; use try_send and handle Full and Closed",
    },
    Ban {
        rule: "no dead code",
        under: &[],
        except: &[],
        look_at: Plane::Code,
        words: "allow(dead_code* expect(dead_code* allow(unused)",
        why: "delete what is not used",
    },
    Ban {
        rule: "no unfinished code",
        under: &[],
        except: &[],
        look_at: Plane::Code,
        words: "todo! unimplemented! dbg!",
        why: "finish it, or file it as an issue",
    },
    Ban {
        rule: "no notes to self",
        under: &[],
        except: &[],
        look_at: Plane::Comments,
        words: "TODO FIXME XXX",
        why: "do it, or file it as an issue",
    },
    Ban {
        rule: "no sleeps in scenarios",
        under: &["tests/process/"],
        except: &[],
        look_at: Plane::Code,
        words: "thread::sleep time::sleep",
        why: "wait for an event with a deadline; a sleep is a guess about somebody's machine",
    },
];
