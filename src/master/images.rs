//! Which program each generation runs.
//!
//! The first generation runs what this master runs, even if the file was replaced since. A reload opens the file that is
//! on disk at that moment and holds it, so that a restart within a generation, or a return to it, runs its own code. A
//! foreign program is opened at the first start of a generation and a spec, and held from then on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::master::ClusterSupervisor;
use crate::model::{EventKind, Generation, Program, Settings, Slot, SpawnFailure, SpecName};
use crate::process::Image;
use crate::supervision::RequestId;

/// The programs of all generations.
#[derive(Debug, Default)]
pub(crate) struct Images {
    /// Of all but the first.
    generations: HashMap<Generation, Code>,
    foreign: HashMap<(Generation, SpecName), Foreign>,
}

/// What a generation brought.
#[derive(Debug)]
struct Code {
    own: Result<Image, SpawnFailure>,
    exec: Option<NewProgram>,
}

#[derive(Debug)]
struct Foreign {
    path: PathBuf,
    image: Image,
}

/// The program that a reload brings to one spec.
#[derive(Clone, Debug)]
pub(crate) struct NewProgram {
    pub(crate) spec: SpecName,
    pub(crate) path: PathBuf,
}

impl Images {
    /// Opens what is on disk now. That it cannot be opened is told when a worker is to run it.
    fn add(&mut self, generation: Generation, exec: Option<NewProgram>) {
        let own = Image::on_disk();
        self.generations.insert(generation, Code { own, exec });
    }

    /// Nobody will run it any more.
    pub(crate) fn remove(&mut self, generation: Generation) {
        self.generations.remove(&generation);
        self.foreign.retain(|(of, _), _| *of != generation);
    }

    /// The foreign program that this generation brought to this spec.
    pub(crate) fn exec_of(&self, generation: Generation, spec: &SpecName) -> Option<&Path> {
        let exec = self.generations.get(&generation)?.exec.as_ref()?;
        Some(exec.path.as_path()).filter(|_| exec.spec == *spec)
    }

    /// What a worker of a generation is started from; `None` for the image this master runs, and for a path that cannot
    /// be held.
    pub(crate) fn of(
        &mut self,
        generation: Generation,
        slot: &Slot,
        settings: &Settings,
    ) -> Result<Option<&Image>, SpawnFailure> {
        let path = match &settings.exec {
            Program::Path(path) => path,
            Program::Same => return self.own(generation),
        };
        let key = (generation, slot.spec.clone());
        if self.foreign.get(&key).is_none_or(|held| held.path != *path) {
            self.foreign.remove(&key);
            let Some(image) = Image::foreign(path, settings.cwd.as_deref()) else {
                return Ok(None);
            };
            let path = path.clone();
            self.foreign.insert(key.clone(), Foreign { path, image });
        }
        Ok(self.foreign.get(&key).map(|held| &held.image))
    }

    /// What this program's own workers and zygotes of a generation are started from.
    pub(crate) fn own(&self, generation: Generation) -> Result<Option<&Image>, SpawnFailure> {
        match self.generations.get(&generation).map(|code| &code.own) {
            None => Ok(None),
            Some(Ok(image)) => Ok(Some(image)),
            Some(Err(failure)) => Err(failure.clone()),
        }
    }

    /// Lets go of the programs of a spec that is no more.
    pub(crate) fn forget(&mut self, spec: &SpecName) {
        self.foreign.retain(|(_, of), _| of != spec);
    }
}

impl ClusterSupervisor {
    pub(super) fn generation_added(&mut self, request: RequestId, generation: Generation) {
        tracing::debug!(?request, %generation, "generation added");
        let exec = self.replies().program_of(request);
        self.images.add(generation, exec);
    }

    /// A reload that brought a program has succeeded: from now on it is what the settings say, for reloads to come.
    pub(super) fn program_is_good(&mut self, request: RequestId) {
        let Some(NewProgram { spec, path }) = self.replies().program_of(request) else {
            return;
        };
        match self.spec_settings.get_mut(&spec) {
            Some(own) => own.exec = Some(path),
            None => {
                self.settings.exec = Program::Path(path);
                let settings = Box::new(self.settings.clone());
                self.publish(None, EventKind::Setup(settings));
            }
        }
    }
}
