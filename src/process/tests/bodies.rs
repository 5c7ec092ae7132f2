//! What this test program does when a test executes it again as a worker; the tests read its words on the channel.

use super::*;

pub(super) fn report(contract: &Contract, channel: OwnedFd) {
    let cloexec = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_GETFD).unwrap() & FdFlag::FD_CLOEXEC.bits() != 0;
    let mut text = format!(
        "worker {} of {}, generation {}\n",
        contract.id, contract.slot, contract.generation
    );
    let again = contract.take_channel();
    text += &format!(
        "channel {}, cloexec {}, again {again:?}\n",
        channel.as_raw_fd(),
        cloexec(&channel)
    );
    for listener in &contract.listeners {
        let fd = listener.take().unwrap();
        text += &format!(
            "listener {} {}, cloexec {}\n",
            listener.name,
            fd.as_raw_fd(),
            cloexec(&fd)
        );
    }
    let variable = crate::process::bootstrap::CONTRACT_VARIABLE;
    let seen = std::process::Command::new("env").output().unwrap().stdout;
    let seen = String::from_utf8_lossy(&seen)
        .lines()
        .filter(|line| line.starts_with(variable))
        .count();
    text += &format!("variable {:?}, grandchild sees {seen}\n", std::env::var_os(variable));
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let leaked = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    text += &format!(
        "leaked {}\n",
        leaked.filter(|path| path == Path::new("/etc/passwd")).count()
    );
    text += &format!("name {}", std::fs::read_to_string("/proc/self/comm").unwrap());
    let groups = nix::unistd::getgroups().unwrap().len();
    text += &format!(
        "user {} {} groups {groups}\n",
        nix::unistd::getuid(),
        nix::unistd::getgid()
    );
    File::from(channel).write_all(text.as_bytes()).unwrap();
}

pub(super) fn deleted(channel: OwnedFd) {
    std::fs::remove_file(std::env::current_exe().unwrap()).unwrap();
    let link = std::fs::read_link("/proc/self/exe").unwrap();
    let is_deleted = link.to_str().unwrap().ends_with(" (deleted)");
    let again = in_runtime(run(&same("report")));
    let text = format!("link ends in (deleted): {is_deleted}\n{}", again.channel);
    File::from(channel).write_all(text.as_bytes()).unwrap();
}

pub(super) fn descriptors(channel: OwnedFd) {
    let (listener, _peer) = UnixStream::pair().unwrap();
    let listener = OwnedFd::from(listener);
    // No glob and no second process: they would open descriptors of their own.
    let script = "for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                  test -e /proc/$$/fd/$fd && echo $fd; done; printf ping >&3";
    let finished = in_runtime(async { finish(start(&shell(script), &[], &[&listener, &listener]).unwrap()).await });
    let text = format!("{}, said {}\n", finished.stdout.join(" "), finished.channel);
    File::from(channel).write_all(text.as_bytes()).unwrap();
}

pub(super) fn in_runtime<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(body)
}

pub(super) fn masks(channel: OwnedFd) {
    let mut blocked = SigSet::empty();
    blocked.add(Blocked::SIGTERM);
    blocked.thread_block().unwrap();
    let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let bit = |field: &str, signal: u64| {
        let bits = own.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        u64::from_str_radix(bits.trim(), 16).unwrap() & (1 << (signal - 1)) != 0
    };
    let mut channel = File::from(channel);
    if bit("SigIgn:", 1) && bit("SigBlk:", 15) {
        writeln!(channel, "parent ignores HUP and blocks TERM").unwrap();
    }
    let settings = Settings {
        exec: Program::Path("cat".into()),
        args: Some(vec!["/proc/self/status".into()]),
        ..shell("")
    };
    let finished = in_runtime(run(&settings));
    channel.write_all(finished.stdout.join("\n").as_bytes()).unwrap();
}

pub(super) fn limits(channel: OwnedFd) {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut channel = File::from(channel);
    in_runtime(async {
        run(&shell("exit 0")).await;
        let before = open();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        for allowed in 0..24 {
            setrlimit(Resource::RLIMIT_NOFILE, before as u64 + allowed, hard).unwrap();
            let Ok((ours, theirs)) = UnixStream::pair() else {
                continue;
            };
            let settings = shell("exit 0");
            let result = spawn(SpawnPlan {
                image: None,
                settings: &settings,
                extra_env: &[],
                contract: contract(),
                channel: theirs.as_fd(),
                handover: None,
                listeners: Vec::new(),
                recorder: None,
                default_args: &[],
                zygote: None,
            });
            drop((ours, theirs));
            match result {
                Ok(child) => {
                    writeln!(channel, "{allowed}: {:?}", child.handle.mode()).unwrap();
                    child.handle.exited().await;
                    child.handle.reap(false).unwrap();
                }
                Err(failure) => writeln!(channel, "{allowed}: {failure}").unwrap(),
            }
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        for _ in 0..50 {
            let settings = Settings {
                exec: Program::Path("/no/such".into()),
                ..shell("")
            };
            start(&settings, &[], &[]).map(|_| ()).unwrap_err();
        }
        let after = open();
        if after == before {
            writeln!(channel, "no growth").unwrap();
        } else {
            writeln!(channel, "{before} descriptors before, {after} after").unwrap();
        }
    });
}
