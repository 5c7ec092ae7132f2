//! What a child gets, what it does not get, and what a failure says.

use super::*;

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
    let mut settings = shell("where=$(readlink /proc/$$/fd/0 /proc/$$/fd/1); echo lost; echo $where >&2");
    settings.stdout = StdioMode::Null;
    let finished = run(&settings).await;
    assert_eq!(finished.stderr, ["/dev/null /dev/null"]);
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

/// Writes a program in another process: written here, it would stay open for writing in a child that another test
/// starts at that moment, until that child's exec, and could not be executed meanwhile (ETXTBSY).
fn by_shell(script: &str, file: &Path, argument: &std::ffi::OsStr) {
    let mut shell = std::process::Command::new("/bin/sh");
    let status = shell.args(["-c", script]).arg(file).arg(argument).status();
    assert!(status.unwrap().success());
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
    // An ordinary user may not search every directory of PATH: EACCES then.
    let (errno, detail) = failure("no-such-program", None);
    assert!(
        matches!(errno, ENOENT | EACCES) && detail.contains("no directory in PATH"),
        "{detail}"
    );
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
    let write = |text: &str| by_shell("printf %s \"$1\" > \"$0\"; chmod 755 \"$0\"", &script, text.as_ref());
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
async fn n_001_f_110_this_image_again_boots_clean() {
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

#[test]
fn f_099_a_held_image_is_executed_by_a_number_above_those_that_the_child_has_for_itself() {
    let directory = std::env::temp_dir().join(format!("actix-cluster-held-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let (program, script) = (directory.join("program"), directory.join("script"));
    by_shell("cp /bin/sh \"$0\"", &program, "".as_ref());
    let text = "#!/bin/sh\necho \"$3\"\n";
    by_shell("printf %s \"$1\" > \"$0\"; chmod +x \"$0\"", &script, text.as_ref());
    let [program, script] = [program, script].map(|path| Image::foreign(&path, None).unwrap());
    std::fs::remove_dir_all(&directory).unwrap();
    let arrives = |path: &str| {
        let run = std::process::Command::new(path)
            .args(["-c", "echo \"$0\"", "arrived"])
            .output();
        assert_eq!(String::from_utf8_lossy(&run.unwrap().stdout), "arrived\n", "{path}");
    };
    let lowest = program.number() + 1;
    let held = program.path(lowest).unwrap();
    let path = held.to_c_string().unwrap().into_string().unwrap();
    let number = path
        .strip_prefix("/proc/self/fd/")
        .and_then(|number| number.parse::<i32>().ok());
    assert!(number.is_some_and(|number| number >= lowest), "{path} from {lowest} on");
    arrives(&path);
    // Its interpreter looks for it in this process's table, where nothing is overwritten.
    let held = script.path(script.number() + 1).unwrap();
    let path = held.to_c_string().unwrap().into_string().unwrap();
    assert_eq!(path, format!("/proc/{}/fd/{}", std::process::id(), script.number()));
    arrives(&path);
}

#[tokio::test]
async fn f_099_a_deleted_program_still_starts_its_own_image() {
    let copy = std::env::temp_dir().join(format!("actix-cluster-image-{}", std::process::id()));
    by_shell("cp \"$1\" \"$0\"", &copy, std::env::current_exe().unwrap().as_os_str());
    let finished = run(&Settings {
        exec: Program::Path(copy.clone()),
        ..same("deleted")
    })
    .await;
    assert!(!copy.exists());
    assert!(finished.said("link ends in (deleted): true"), "{}", finished.channel);
    assert!(finished.said("worker 7 of web.2, generation 3"), "{}", finished.channel);
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
            .env(crate::process::bootstrap::CONTRACT_VARIABLE, value)
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
    assert!(
        finished
            .channel
            .starts_with("{\"t\":\"failed\",\"m\":\"the user is 0/0/0")
            && finished.channel.ends_with("}\n")
    );
    assert!(
        finished.stderr[0].contains("could not be set up"),
        "{:?}",
        finished.stderr
    );
}

#[test]
fn f_108_no_lock_of_another_thread_holds_up_a_child() {
    let soak = std::env::var_os("ACTIX_CLUSTER_SOAK").is_some();
    let (threads, spawns) = if soak { (32, 10_000) } else { (8, 200) };
    let over = std::sync::atomic::AtomicBool::new(false);
    let is_over = || over.load(std::sync::atomic::Ordering::Relaxed);
    let settings = Settings {
        exec: Program::Path("/bin/true".into()),
        args: None,
        ..shell("")
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            // The locks of the allocator and of the environment, held and let go all the time.
            scope.spawn(|| {
                let mut size = 1;
                while !is_over() {
                    std::hint::black_box((vec![0_u8; size], std::env::var_os("HOME")));
                    size = size * 3 % 200_003;
                    std::thread::yield_now();
                }
            });
        }
        let work = async {
            for _ in 0..spawns {
                assert_eq!(run(&settings).await.reaped.status, ExitStatus::Code(0));
            }
        };
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            bodies::in_runtime(work);
        }));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        worked.unwrap();
    });
}
