//! Spawning and the bootstrap with real processes: shells, and this test program executed again with one test.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal as Blocked};
use tokio::time::timeout;

use super::{Child, Contract, InheritedListener, Lines, Reaped, Role, SpawnPlan, role, spawn};
use crate::model::{
    BoundAddress, ExitStatus, Generation, Program, Scheduling, Settings, Slot, SpawnFailure, SpawnStep, StdioMode,
    WorkerId, exit_code,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Says which body the re-executed test program runs.
const BODY: &str = "ACTIX_CLUSTER_TEST_BODY";

pub(super) fn contract() -> Contract {
    Contract {
        protocol: 1,
        id: WorkerId::new(7),
        slot: Slot::new("web", 2),
        generation: Generation(3),
        channel: 3,
        listeners: Vec::new(),
        restarts: 4,
        grace: Duration::from_secs(30),
        orphan_grace: Duration::from_millis(500),
        uid: None,
        gid: None,
        shim: false,
        name: None,
    }
}

struct Finished {
    stdout: Vec<String>,
    stderr: Vec<String>,
    channel: String,
    reaped: Reaped,
}

impl Finished {
    fn said(&self, line: &str) -> bool {
        self.channel.lines().any(|said| said == line)
    }
}

fn start(
    settings: &Settings,
    extra_env: &[(OsString, OsString)],
    listeners: &[&OwnedFd],
) -> Result<(Child, UnixStream), SpawnFailure> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut contract = contract();
    contract.listeners = listeners
        .iter()
        .map(|_| InheritedListener {
            name: "http".to_owned(),
            fd: -1,
            address: BoundAddress::unix("/x"),
            scheduling: Scheduling::Shared,
        })
        .collect();
    let child = spawn(SpawnPlan {
        settings,
        extra_env,
        contract,
        channel: theirs.as_fd(),
        listeners: listeners.iter().map(|listener| listener.as_fd()).collect(),
        default_args: &[],
    })?;
    Ok((child, ours))
}

async fn finish((child, mut ours): (Child, UnixStream)) -> Finished {
    let all = |pipe: Option<OwnedFd>| async {
        let mut all = Vec::new();
        if let Some(pipe) = pipe {
            let mut lines = Lines::new(pipe).unwrap();
            while let Some(line) = lines.next().await {
                all.push(line);
            }
        }
        all
    };
    let both = async { tokio::join!(all(child.stdout), all(child.stderr), child.handle.exited()) };
    let (stdout, stderr, _) = timeout(LIMIT, both).await.expect("it ends in time");
    let reaped = child.handle.reap(false).unwrap();
    let mut channel = String::new();
    ours.read_to_string(&mut channel).unwrap();
    Finished {
        stdout,
        stderr,
        channel,
        reaped,
    }
}

async fn run(settings: &Settings) -> Finished {
    finish(start(settings, &[], &[]).unwrap()).await
}

fn shell(script: &str) -> Settings {
    Settings {
        exec: Program::Path("/bin/sh".into()),
        args: Some(vec!["-c".into(), script.into()]),
        stdin: StdioMode::Piped,
        stdout: StdioMode::Piped,
        stderr: StdioMode::Piped,
        ..Settings::default()
    }
}

/// This program again, running only `child_body`.
fn same(body: &str) -> Settings {
    Settings {
        exec: Program::Same,
        args: Some(
            ["--exact", "process::tests::child_body", "--nocapture"]
                .map(Into::into)
                .into(),
        ),
        env: vec![(BODY.into(), body.into())],
        ..shell("")
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn n_004_n_010_n_020_program_arguments_and_environment_arrive() {
    let mut settings = shell("echo \"$0 $1 $prop $over $HOME\" >&2; cat; echo out; exit 7");
    settings.args.as_mut().unwrap().extend(["zero".into(), "one".into()]);
    settings.env = vec![("prop".into(), "custom".into()), ("over".into(), "old".into())];
    let extra = [("over".into(), "new".into()), ("HOME".into(), "/there".into())];
    let finished = finish(start(&settings, &extra, &[]).unwrap()).await;
    assert_eq!(finished.stderr, ["zero one custom new /there"]);
    assert_eq!(finished.stdout, ["out"], "standard input is empty");
    assert_eq!(finished.reaped.status, ExitStatus::Code(7));
    settings.exec = Program::Path("sh".into());
    assert_eq!(
        run(&settings).await.reaped.status,
        ExitStatus::Code(7),
        "a bare name is found in PATH"
    );
}

#[tokio::test]
async fn n_005_the_working_directory_is_the_masters_or_the_given_one() {
    let mut settings = shell("pwd -P");
    let own = std::env::current_dir().unwrap().canonicalize().unwrap();
    assert_eq!(run(&settings).await.stdout, [own.to_str().unwrap()]);
    settings.cwd = Some("/usr".into());
    assert_eq!(run(&settings).await.stdout, ["/usr"]);
}

#[tokio::test]
async fn n_013_n_016_each_stream_goes_where_it_was_sent() {
    let mut settings = shell("readlink /proc/$$/fd/0 /proc/$$/fd/1 >&2; exit 0");
    settings.stdout = StdioMode::Null;
    let finished = run(&settings).await;
    assert_eq!(finished.stderr, ["/dev/null", "/dev/null"]);
    assert!(finished.stdout.is_empty());
}

#[tokio::test]
async fn f_093_f_109_a_child_has_its_channel_and_listeners_and_nothing_else() {
    // A worker starts the program, because this process inherited whatever its own parent left open.
    let finished = run(&same("descriptors")).await;
    assert!(finished.said("0 1 2 3 4 5, said ping"), "{}", finished.channel);
}

#[tokio::test]
async fn f_106_nul_bytes_and_huge_values_are_refused_before_the_fork() {
    let refused = |settings: Settings| {
        let failure = start(&settings, &[], &[]).map(|_| ()).unwrap_err();
        assert_eq!(failure.step, SpawnStep::Settings, "{failure}");
        failure
    };
    let with_argument = |text: &str| Settings {
        args: Some(vec![text.into()]),
        ..shell("")
    };
    let with_variable = |name: &str, value: &str| Settings {
        env: vec![(name.into(), value.into())],
        ..shell("")
    };
    refused(with_argument("a\0b"));
    refused(with_variable("a", "b\0c"));
    refused(with_variable("", "x"));
    refused(with_variable("a=b", "x"));
    refused(Settings {
        cwd: Some("/\0".into()),
        ..shell("")
    });
    refused(Settings {
        exec: Program::Path("/bin/\0sh".into()),
        ..shell("")
    });
    let failure = refused(with_argument(&"x".repeat(3 << 20)));
    assert_eq!(failure.errno, Some(nix::errno::Errno::E2BIG as i32));
    let many = Settings {
        args: Some(vec!["x".repeat(100_000).into(); 100]),
        ..shell("")
    };
    assert!(refused(many).detail.contains("pass large values in a file"));
}

#[tokio::test]
async fn f_001_f_105_n_043_a_failure_names_the_thing_that_is_missing() {
    let failure = |exec: &str, cwd: Option<&str>| {
        let settings = Settings {
            exec: Program::Path(exec.into()),
            cwd: cwd.map(PathBuf::from),
            ..shell("")
        };
        let failure = start(&settings, &[], &[]).map(|_| ()).unwrap_err();
        assert_eq!(failure.step, SpawnStep::Exec, "{failure}");
        (failure.errno.map(nix::errno::Errno::from_raw).unwrap(), failure.detail)
    };
    use nix::errno::Errno::{EACCES, ENOENT, ENOEXEC, ENOTDIR};
    let (errno, detail) = failure("/no/such", None);
    assert!(
        errno == ENOENT && detail.starts_with("cannot run \"/no/such\": ENOENT (No such file"),
        "{detail}"
    );
    let (errno, detail) = failure("no-such-program", None);
    assert!(errno == ENOENT && detail.contains("no directory in PATH"), "{detail}");
    let (errno, detail) = failure("/bin/sh", Some("/no/dir"));
    assert!(
        errno == ENOENT && detail.contains("working directory \"/no/dir\""),
        "{detail}"
    );
    let (errno, detail) = failure("/bin/sh", Some("/etc/passwd"));
    assert!(errno == ENOTDIR && detail.contains("working directory"), "{detail}");
    let (errno, detail) = failure("/etc/passwd", None);
    assert!(errno == EACCES && detail.contains("is it executable"), "{detail}");

    let script = std::env::temp_dir().join(format!("actix-cluster-script-{}", std::process::id()));
    let write = |text: &str| {
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    write("#!/no/such/interpreter\n");
    let (errno, detail) = failure(script.to_str().unwrap(), None);
    write("\x01\x02 no program");
    let (other, other_detail) = failure(script.to_str().unwrap(), None);
    std::fs::remove_file(&script).unwrap();
    assert!(errno == ENOENT && detail.contains("the interpreter"), "{detail}");
    assert!(
        other == ENOEXEC && other_detail.contains("no program for this machine"),
        "{other_detail}"
    );
}

#[tokio::test]
async fn f_052_a_child_leads_its_own_process_group() {
    let finished = run(&shell("cut -d' ' -f5 /proc/$$/stat; echo $$")).await;
    assert_eq!(finished.stdout[0], finished.stdout[1]);
}

#[tokio::test]
async fn n_001_f_099_f_110_this_image_again_boots_clean() {
    let leak = File::open("/etc/passwd").unwrap();
    let (listener, _peer) = UnixStream::pair().unwrap();
    let listener = OwnedFd::from(listener);
    fcntl(&leak, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let finished = finish(start(&same("report"), &[], &[&listener]).unwrap()).await;
    drop(leak);
    let report = &finished.channel;
    assert_eq!(finished.reaped.status, ExitStatus::Code(0), "{report}");
    assert!(finished.said("worker 7 of web.2, generation 3"), "{report}");
    assert!(finished.said("channel 3, cloexec true, again None"), "{report}");
    assert!(finished.said("listener http 4, cloexec true"), "{report}");
    assert!(finished.said("variable None, grandchild sees 0"), "{report}");
    assert!(finished.said("leaked 0"), "{report}");
    let name = std::env::args_os().next().unwrap();
    let name = Path::new(&name).file_name().unwrap().to_str().unwrap();
    assert!(
        finished.said(&format!("name {}", &name[..name.len().min(15)])),
        "{report}"
    );
}

#[tokio::test]
async fn f_047_masks_and_ignored_signals_end_at_the_child() {
    let program = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let mut settings = same("masks");
    settings.exec = Program::Path("/bin/sh".into());
    let script = format!("trap '' HUP TERM CHLD; exec '{program}' \"$@\"");
    let mut arguments: Vec<OsString> = vec!["-c".into(), script.into(), "sh".into()];
    arguments.extend(settings.args.take().unwrap());
    settings.args = Some(arguments);
    let finished = run(&settings).await;
    assert!(
        finished.said("parent ignores HUP and blocks TERM"),
        "{}",
        finished.channel
    );
    assert!(finished.said("SigBlk:\t0000000000000000"), "{}", finished.channel);
    assert!(finished.said("SigIgn:\t0000000000000000"), "{}", finished.channel);
}

#[tokio::test]
async fn f_001_f_103_no_failure_leaks_a_descriptor() {
    let finished = run(&same("limits")).await;
    assert_eq!(finished.reaped.status, ExitStatus::Code(0), "{}", finished.channel);
    assert!(finished.said("no growth"), "{}", finished.channel);
    assert!(
        finished.channel.contains("EMFILE") || finished.channel.contains("EINVAL"),
        "{}",
        finished.channel
    );
}

#[test]
fn n_023_a_broken_contract_is_refused_loudly() {
    for value in ["", "{", "12", "{\"channel\":77,\"listeners\":[],\"shim\":false}"] {
        let output = std::process::Command::new("/proc/self/exe")
            .args(["--exact", "process::tests::child_body", "--nocapture"])
            .env(BODY, "role")
            .env(super::bootstrap::CONTRACT_VARIABLE, value)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.contains("refused: the environment variable ACTIX_CLUSTER_WORKER is set"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn n_015_an_ordinary_user_cannot_become_root() {
    if is_root() {
        return;
    }
    for (uid, gid) in [(Some(0), None), (None, Some(0))] {
        let failure = start(&Settings { uid, gid, ..shell("") }, &[], &[])
            .map(|_| ())
            .unwrap_err();
        assert_eq!(failure.errno, Some(nix::errno::Errno::EPERM as i32), "{failure}");
    }
}

#[tokio::test]
async fn n_019_a_worker_runs_under_the_given_user() {
    if !is_root() {
        return;
    }
    let user = Some(65534);
    let script =
        "id -u; id -g; id -G; echo \"$ACTIX_CLUSTER_WORKER\"; echo $1; echo ping >&3; exec readlink /proc/$$/exe";
    let mut foreign = Settings {
        uid: user,
        gid: user,
        ..shell(script)
    };
    foreign.args.as_mut().unwrap().extend(["zero".into(), "one".into()]);
    let finished = run(&foreign).await;
    assert_eq!(
        finished.stdout[..3],
        ["65534", "65534", "65534"],
        "{:?}",
        finished.stderr
    );
    let passed: Contract = serde_json::from_str(&finished.stdout[3]).unwrap();
    assert_eq!(passed, contract(), "without orders to change the user again");
    assert_eq!(
        (finished.stdout[4].as_str(), finished.channel.as_str()),
        ("one", "ping\n")
    );
    foreign.exec = Program::Path("/no/such".into());
    let finished = run(&foreign).await;
    assert_eq!(finished.reaped.status, ExitStatus::Code(exit_code::BOOT_FAILED));
    assert!(
        finished.channel.contains("/no/such") && finished.channel.contains("ENOENT"),
        "{}",
        finished.channel
    );

    let finished = run(&Settings {
        uid: user,
        gid: user,
        ..same("report")
    })
    .await;
    assert!(finished.said("user 65534 65534 groups 0"), "{}", finished.channel);
}

#[tokio::test]
async fn f_105_a_change_of_user_that_does_not_hold_ends_the_worker() {
    if !is_root() {
        return;
    }
    // To the kernel this number means "leave it as it is": the call succeeds and the user is still root.
    let finished = run(&Settings {
        uid: Some(u32::MAX),
        ..same("report")
    })
    .await;
    assert_eq!(finished.reaped.status, ExitStatus::Code(exit_code::BOOT_FAILED));
    assert!(finished.channel.starts_with("{\"m\":\"the user is 0/0/0") && finished.channel.ends_with("}\n"));
    assert!(
        finished.stderr[0].contains("could not be set up"),
        "{:?}",
        finished.stderr
    );
}

/// Not a test by itself: what the program does when one of the tests above executes it again.
#[test]
fn child_body() {
    let Ok(body) = std::env::var(BODY) else { return };
    let contract = match role() {
        Role::Worker(contract) => contract,
        Role::Broken(message) => return println!("refused: {message}"),
        Role::Master => return println!("master"),
    };
    let channel = contract.take_channel().expect("the channel is taken once");
    match body.as_str() {
        "report" => report(contract, channel),
        "masks" => masks(channel),
        "limits" => limits(channel),
        "descriptors" => descriptors(channel),
        other => panic!("no body {other:?}"),
    }
}

fn report(contract: &Contract, channel: OwnedFd) {
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
    let variable = super::bootstrap::CONTRACT_VARIABLE;
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

fn descriptors(channel: OwnedFd) {
    let (listener, _peer) = UnixStream::pair().unwrap();
    let listener = OwnedFd::from(listener);
    // No glob and no second process: they would open descriptors of their own.
    let script = "for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                  test -e /proc/$$/fd/$fd && echo $fd; done; printf ping >&3";
    let finished = in_runtime(async { finish(start(&shell(script), &[], &[&listener, &listener]).unwrap()).await });
    let text = format!("{}, said {}\n", finished.stdout.join(" "), finished.channel);
    File::from(channel).write_all(text.as_bytes()).unwrap();
}

fn in_runtime<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(body)
}

fn masks(channel: OwnedFd) {
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

fn limits(channel: OwnedFd) {
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
                settings: &settings,
                extra_env: &[],
                contract: contract(),
                channel: theirs.as_fd(),
                listeners: Vec::new(),
                default_args: &[],
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
