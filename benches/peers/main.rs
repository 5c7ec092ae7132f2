//! Side by side with the peers: installs them, runs the same work against each and against this project in one run, and
//! writes the table, the pictures and the raw data. `cargo run --release -p actix-cluster-benches --bin peers`.
//!
//! Targets are interleaved: a round takes every cell of every target before the next round begins, each round begins with
//! another target, and each cell starts its target anew. Read `README.md` in this folder first.

mod client;
mod install;
mod kernel;
mod measure;
mod place;
mod plot;
mod record;
mod roles;
mod running;
mod stats;
mod table;
mod targets;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use actix_cluster_benches::Failure;
use clap::{Parser, Subcommand};

use crate::install::Installed;
use crate::measure::{Effort, MEASURES, Measure};
use crate::record::{Record, Records, Taken};
use crate::targets::{TARGETS, Target};

/// Measures this project beside its peers, and writes results/, RESULTS.md and the README's table.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Task>,
    /// Measures to take, by letter, as in A,B; default: all. Cells that are not taken keep their earlier results.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Targets, by id or the beginning of one, as in ours,node; default: all.
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// How often each cell is taken; three times that for the closed loops of D, two at most for E and F.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load in each cell.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Kills in each cell of A.
    #[arg(long, default_value_t = 15)]
    kills: usize,
    /// Keep what was taken, take what is missing or failed.
    #[arg(long, conflicts_with = "anew")]
    resume: bool,
    /// Forget all old cells of the measures that are taken, also of targets that are not.
    #[arg(long)]
    anew: bool,
    /// Where results go; default: results/ beside the peers.
    #[arg(long, global = true)]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Task {
    /// Write table and pictures from the raw data there is.
    Table,
    /// Say which targets and measures there are.
    List,
    /// Install the peers and build our own programs, no more.
    Install,
    /// A server to be measured.
    #[command(hide = true)]
    ServeActix {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        threads: usize,
    },
    /// A server to be supervised by somebody else.
    #[command(hide = true)]
    ServeTiny {
        #[arg(long)]
        port: u16,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command {
        Some(Task::ServeActix { port, threads }) => roles::serve_actix(port, threads),
        Some(Task::ServeTiny { port }) => roles::serve_tiny(port),
        Some(Task::List) => list(),
        Some(Task::Install) => Installed::new(&targets::folders(), true).map(|installed| tell_versions(&installed)),
        Some(Task::Table) => Records::open(&args.folder()).and_then(|records| write(&args.folder(), &records)),
        None => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| place::here().join("results"))
    }

    fn measures(&self) -> Result<Vec<Measure>, Failure> {
        if self.only.is_empty() {
            return Ok(MEASURES.to_vec());
        }
        let of = |letter: &String| {
            Measure::of_letter(letter).ok_or_else(|| format!("there is no measure {letter:?}; there are A to F").into())
        };
        self.only.iter().map(of).collect()
    }

    const fn effort(&self) -> Taken {
        Taken {
            rounds: self.rounds,
            seconds: self.seconds,
            kills: self.kills,
        }
    }

    fn wants(&self, target: &str) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|wanted| target.starts_with(wanted.as_str()))
    }
}

fn list() -> Result<(), Failure> {
    for measure in MEASURES {
        println!("{}  {measure:?}", measure.letter());
    }
    for target in TARGETS {
        println!("{:18} {}", target.id, target.name);
    }
    Ok(())
}

fn tell_versions(installed: &Installed) {
    for (peer, versions) in &installed.peers {
        match versions {
            Ok(versions) => println!("{peer}: {versions}"),
            Err(error) => println!("{peer}: left out, {error}"),
        }
    }
}

/// One cell that is to be taken.
struct Cell {
    measure: Measure,
    target: &'static Target,
    variant: &'static str,
    round: usize,
}

fn run(args: &Args) -> Result<(), Failure> {
    let (folder, measures) = (args.folder(), args.measures()?);
    let wanted = TARGETS.iter().filter(|target| args.wants(target.id));
    let mut folders: Vec<&str> = wanted.map(|target| target.folder).collect();
    folders.retain(|folder| !folder.is_empty());
    folders.dedup();
    let is_static = |(id, _): &(&str, &str)| TARGETS.iter().any(|target| target.id == *id && target.is_static());
    let mut all = measures.iter().flat_map(|measure| measure.cells());
    let with_static = all.any(|cell| is_static(&cell) && args.wants(cell.0));
    // Before anything is built: whoever is refused should not wait for that.
    let mut records = Records::open(&folder)?;
    let is_taken = |record: &Record| measures.iter().any(|measure| measure.letter() == record.measure);
    // What failed is tried again in all cases.
    let goes = |record: &Record| {
        let is_wanted = args.anew || args.wants(&record.target) && (!args.resume || record.result.is_none());
        is_taken(record) && is_wanted
    };
    records.refuse_mixture(args.effort(), |record| is_taken(record) && !goes(record))?;
    let installed = Installed::new(&folders, with_static)?;
    running::adopt_orphans()?;
    end_with_signals()?;

    records.forget(goes)?;
    table::keep_machine(&folder, &installed)?;

    let cells: Vec<Cell> = plan(args, &measures)
        .into_iter()
        .filter(|cell| !records.has(cell.measure, cell.target.id, cell.variant, cell.round))
        .collect();
    let effort = Effort {
        time: Duration::from_secs_f64(args.seconds),
        kills: args.kills,
    };
    let commit = commit();
    let mut ours_failed = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        let name = format!("{} {} {}", cell.measure.letter(), cell.target.id, cell.variant);
        eprint!("[{}/{}] round {}: {name} ", at + 1, cells.len(), cell.round + 1);
        let noise = kernel::noise();
        let taken = match installed.missing(cell.target) {
            Some(reason) => Err(format!("{}: {reason}", table::LEFT_OUT)),
            None => {
                let taken = take(cell, effort, &installed);
                if taken.is_err() && cell.target.is_ours() {
                    ours_failed.push(name);
                }
                taken
            }
        };
        match &taken {
            Ok(result) => eprintln!("{}", table::headline(cell.measure, result)),
            Err(error) => eprintln!("{error}"),
        }
        let (result, error) = match taken {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        records.keep(Record {
            measure: cell.measure.letter().to_owned(),
            target: cell.target.id.to_owned(),
            variant: cell.variant.to_owned(),
            round: cell.round,
            at: wall(),
            noise,
            effort: Some(args.effort()),
            commit: commit.clone(),
            result,
            error,
        })?;
    }
    write(&folder, &records)?;
    if ours_failed.is_empty() {
        return Ok(());
    }
    Err(format!("cells of this project failed: {}", ours_failed.join(", ")).into())
}

/// What this tree is, for people: the commit, and whether there is more than that. `None` without git.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(place::here()).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let mut commit = git(&["rev-parse", "--short", "HEAD"])?;
    // Results are written again and again while this runs, and what git does not know is not built.
    let changed = git(&[
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/",
        ":/!benches/peers/results",
    ])?;
    if !changed.is_empty() {
        commit.push('+');
    }
    Some(commit)
}

/// Every cell in the order in which it is taken: round by round, measure by measure, each round from another target on. The loads
/// of D come one after the other, so that what is compared was taken within two minutes.
fn plan(args: &Args, measures: &[Measure]) -> Vec<Cell> {
    let mut cells = Vec::new();
    let last = |measure: &Measure| {
        let own = measure.cells().into_iter();
        own.map(|(_, variant)| measure.rounds(variant, args.rounds)).max()
    };
    let rounds = measures.iter().filter_map(last).max().unwrap_or_default();
    for round in 0..rounds {
        for measure in measures {
            let of = last(measure).unwrap_or(1).max(1);
            let mut own: Vec<Cell> = measure
                .cells()
                .into_iter()
                .filter(|(_, variant)| round < measure.rounds(variant, args.rounds))
                .filter_map(|(id, variant)| {
                    let target = TARGETS.iter().find(|target| target.id == id && args.wants(id))?;
                    Some(Cell {
                        measure: *measure,
                        target,
                        variant,
                        round,
                    })
                })
                .collect();
            let by = own.len() * (round % of) / of;
            own.rotate_left(by);
            if *measure == Measure::Throughput {
                own.sort_by_key(|cell| cell.variant);
            }
            cells.extend(own);
        }
    }
    cells
}

/// Takes a cell, within its time; whatever it started is gone afterwards.
fn take(cell: &Cell, effort: Effort, installed: &Installed) -> Result<serde_json::Value, String> {
    let watchdog = Watchdog::start(cell.measure.limit() + effort.time * 4);
    let taken = measure::take(cell.measure, cell.target, cell.variant, effort, installed);
    let is_late = watchdog.stop();
    running::sweep();
    place::clean();
    match taken {
        Err(error) if is_late => Err(format!("not done in its time: {error}")),
        taken => taken.map_err(|error| error.to_string()),
    }
}

/// Kills everything that was started if a cell takes too long; the cell then fails by itself.
struct Watchdog {
    done: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    fn start(limit: Duration) -> Self {
        let (done, waiting) = channel();
        let thread = std::thread::spawn(move || {
            let is_late = waiting.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if is_late {
                running::sweep();
            }
            is_late
        });
        Self { done, thread }
    }

    /// Was it too late?
    fn stop(self) -> bool {
        // It may have barked already.
        self.done.send(()).ok();
        self.thread.join().unwrap_or(true)
    }
}

/// Whoever interrupts this program ends what it started, too.
fn end_with_signals() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupts, mut terminations) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupts.recv() => (),
                _ = terminations.recv() => (),
            }
        });
        eprintln!("interrupted; `--resume` goes on from here");
        running::sweep();
        place::clean();
        leave(130);
    });
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "the user has said so, and everything is swept"
)]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

fn write(folder: &std::path::Path, records: &Records) -> Result<(), Failure> {
    plot::write(folder, records)?;
    table::write(folder, records)?;
    eprintln!(
        "{} cells in {}; table and pictures are written",
        records.all.len(),
        folder.display()
    );
    Ok(())
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a record says when it was taken")]
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
