//! Tests of binding Unix paths, with real files.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Barrier;

use super::super::testing::TestDir;
use super::*;

fn bind_default(path: &Path) -> Result<(BoundSocket, UnixPathGuard), ListenError> {
    bind_unix(path, &ListenOptions::default(), &mut Patience::START.clone())
}

/// A socket file whose owner is gone.
fn stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

fn taken(path: &Path, why: &str) {
    let error = bind_default(path).unwrap_err();
    assert_eq!(error.errno, Some(Errno::EADDRINUSE as i32), "{error}");
    assert!(error.detail.contains(why), "{error}");
    assert!(fs::symlink_metadata(path).is_ok(), "the file must be left alone");
}

#[test]
fn n_065_n_066_a_long_relative_path_is_bound_and_removed_at_the_end() {
    let dir = TestDir::new();
    let name = "A".repeat(84);
    let path = absolute(Path::new(&format!("./{name}")), Some(dir.path())).unwrap();
    assert!(path.is_absolute() && path.as_os_str().len() > 107);
    let (bound, guard) = bind_default(&path).unwrap();
    assert_eq!(bound.address.address, path.to_str().unwrap());
    assert_eq!(bound.address.port, None);
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    // A second one probes through the same short way and finds the owner alive.
    taken(&path, "living process");
    drop(guard);
    assert!(!path.exists());
}

#[test]
fn n_065_relative_paths_need_a_working_directory() {
    assert_eq!(
        absolute(Path::new("./a//b"), Some(Path::new("/run/."))).unwrap(),
        Path::new("/run/a/b")
    );
    assert_eq!(
        absolute(Path::new("/a"), Some(Path::new("/run"))).unwrap(),
        Path::new("/a")
    );
    assert!(
        absolute(Path::new("a"), None)
            .unwrap_err()
            .detail
            .contains("use an absolute path")
    );
}

#[test]
fn n_067_the_mode_is_exact_whatever_the_umask() {
    let dir = TestDir::new();
    for mode in [0o777, 0o600, 0o660, 0o000] {
        let path = dir.path().join(format!("{mode:o}"));
        let options = ListenOptions {
            mode: Some(mode),
            ..ListenOptions::default()
        };
        let _bound = bind_unix(&path, &options, &mut Patience::START.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
    let options = ListenOptions {
        mode: Some(0o4777),
        ..ListenOptions::default()
    };
    let error = bind_unix(&dir.path().join("x"), &options, &mut Patience::START.clone()).unwrap_err();
    assert!(error.detail.contains("0o4777"), "{error}");
}

#[test]
fn clients_reach_the_bound_path() {
    let dir = TestDir::new();
    let path = dir.path().join("s");
    let (bound, _guard) = bind_default(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    let listener = UnixListener::from(bound.fd);
    assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(path.as_path()));
    listener.accept().unwrap();
}

#[test]
fn f_117_a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let dir = TestDir::new();
    let path = dir.path().join("s");
    stale(&path);
    let _bound = bind_default(&path).unwrap();
    taken(&path, "living process");
    UnixStream::connect(&path).unwrap();

    let full = dir.path().join("full");
    let options = ListenOptions {
        backlog: 0,
        ..ListenOptions::default()
    };
    let _full = bind_unix(&full, &options, &mut Patience::START.clone()).unwrap();
    let _waiting = UnixStream::connect(&full).unwrap();
    taken(&full, "living process");

    let datagram = dir.path().join("datagram");
    let _owner = UnixDatagram::bind(&datagram).unwrap();
    taken(&datagram, "living process");
}

#[test]
fn f_117_what_is_no_socket_is_never_unlinked() {
    let dir = TestDir::new();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("directory")).unwrap();
    stale(&at("target"));
    symlink(at("target"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    taken(&at("file"), "a regular file");
    taken(&at("directory"), "a directory");
    taken(&at("link"), "a symbolic link");
    taken(&at("dangling"), "a symbolic link");
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
}

#[test]
fn f_117_unusable_paths_are_named() {
    let dir = TestDir::new();
    let error = bind_default(&dir.path().join("missing/s")).unwrap_err();
    assert_eq!(error.errno, Some(Errno::ENOENT as i32));
    assert!(
        error.detail.contains("/missing") && error.detail.contains("create it first"),
        "{error}"
    );
    let error = bind_default(&dir.path().join("n".repeat(200))).unwrap_err();
    assert_eq!(error.errno, Some(Errno::ENAMETOOLONG as i32));
    assert!(error.detail.contains("200 bytes"), "{error}");
    assert!(
        bind_default(Path::new("/"))
            .unwrap_err()
            .detail
            .contains("names no file")
    );
    let error = bind_default(&dir.path().join("a\0b")).unwrap_err();
    assert_eq!(error.errno, Some(Errno::EINVAL as i32));
}

#[test]
fn f_117_of_clusters_racing_for_one_stale_path_exactly_one_wins() {
    let dir = TestDir::new();
    for round in 0..50 {
        let path = dir.path().join(format!("{round}"));
        stale(&path);
        let barrier = Barrier::new(4);
        let race = || {
            barrier.wait();
            bind_default(&path)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "{results:?}");
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn f_117_a_kept_lock_is_an_error_and_not_a_hang() {
    let dir = TestDir::new();
    let directory: OwnedFd = fs::File::open(dir.path()).unwrap().into();
    let _kept = lock(directory, &mut Patience::START.clone()).unwrap();
    let error = bind_default(&dir.path().join("s")).unwrap_err();
    assert_eq!(error.errno, Some(Errno::EWOULDBLOCK as i32));
    assert!(error.detail.contains("flock"), "{error}");
}

#[test]
fn the_guard_removes_only_the_file_it_was_made_for() {
    let dir = TestDir::new();
    let path = dir.path().join("s");
    let (bound, guard) = bind_default(&path).unwrap();
    fs::rename(&path, dir.path().join("moved")).unwrap();
    fs::write(&path, "of somebody else").unwrap();
    drop((guard, bound));
    assert!(path.exists());
}
