//! Odd launchers: what stands between a test and its master.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Makes a command that [`Master::start_with`](crate::master::Master::start_with) prepared run by way of a shell script, which `exec`s it as `"$0"`.
///
/// # Panics
/// If the command was not prepared there.
pub fn by_way_of(script: &str, command: &mut Command) {
    let directory = command.get_current_dir().expect("a master has a directory").to_owned();
    let log = fs::File::options().append(true).open(directory.join("log"));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).arg(command.get_program());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(directory).process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    shell.stderr(log.expect("the log is there"));
    *command = shell;
}
